/* What a worker has given up, and what it has not. Each test confines its own process. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "check.h"
#include "server/server.h"

#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);

/* Leaks are looked for by tracing the process, which is one of the things given up. */
const char *
__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

#define DENIED(call)                                                                   \
    do {                                                                               \
        errno = 0;                                                                     \
        CHECK_EQ((call), -1);                                                          \
        CHECK_EQ(errno, EPERM);                                                        \
    } while (0)

static void
test_what_a_worker_never_needs_is_denied(void)
{
    char *const words[] = {"true", NULL};
    char byte;
    struct iovec here = {&byte, 1};
    pid_t parent = getppid();

    CHECK_EQ(fdc_confine_calls(), 0);
    DENIED(execve("/bin/true", words, NULL));
    DENIED(syscall(SYS_fork));
    DENIED(fork());
    DENIED(ptrace(PTRACE_TRACEME, 0, 0, 0));
    DENIED(process_vm_readv(parent, &here, 1, &here, 1, 0));
    DENIED(process_vm_writev(parent, &here, 1, &here, 1, 0));
    DENIED(syscall(SYS_mount, "x", "/x", "tmpfs", 0, NULL));
    DENIED(syscall(SYS_unshare, 0));
    DENIED(syscall(SYS_setns, 0, 0));
    DENIED(syscall(SYS_bpf, 0, NULL, 0));
    DENIED(syscall(SYS_keyctl, 0, 0));
    DENIED(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
    DENIED(syscall(SYS_userfaultfd, 0));
    DENIED(syscall(SYS_chroot, "/"));
    DENIED(syscall(425, 1, NULL)); /* io_uring_setup */
    DENIED(syscall(438, 0, 0, 0)); /* pidfd_getfd */
    DENIED(syscall(SYS_setuid, 0));
    DENIED(syscall(SYS_init_module, NULL, 0, ""));
    DENIED(socket(AF_PACKET, SOCK_RAW, 0));
    DENIED(socket(AF_ALG, SOCK_SEQPACKET, 0));
    DENIED(ioctl(0, TIOCSTI, "x"));
    DENIED(syscall(SYS_getpid | 0x40000000)); /* of the other calling convention */
}

static void
test_others_cannot_be_signalled_and_oneself_can(void)
{
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(fdc_confine_calls(), 0);
    DENIED(kill(getppid(), 0));
    DENIED(kill(-1, 0));
    DENIED(kill(0, 0));
    DENIED(syscall(SYS_tgkill, getppid(), getppid(), 0));
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(raise(SIGUSR1), 0);
}

static void *
says_so(void *at)
{
    *(int *)at = 1;
    return NULL;
}

static void
test_what_a_driver_needs_is_there(void)
{
    pthread_t thread;
    int said = 0, fd;

    CHECK_EQ(fdc_confine_calls(), 0);
    CHECK_EQ(pthread_create(&thread, NULL, says_so, &said), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(said, 1);
    fd = open("/proc/self/maps", O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    fd = memfd_create("x", MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
    close(fd);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    close(fd);
    CHECK_EQ(ioctl(0, 0x12345678, 0), -1);
    CHECK(errno != EPERM);
}

static void *
tries_to_run(void *unused)
{
    char *const words[] = {"true", NULL};

    (void)unused;
    while (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2)
        usleep(1000);
    errno = 0;
    execve("/bin/true", words, NULL);
    return (void *)(intptr_t)errno;
}

/* A driver's threads are older than the filter. */
static void
test_threads_that_are_there_already_are_held_too(void)
{
    pthread_t thread;
    void *err;

    CHECK_EQ(pthread_create(&thread, NULL, tries_to_run, NULL), 0);
    CHECK_EQ(fdc_confine_calls(), 0);
    CHECK_EQ(pthread_join(thread, &err), 0);
    CHECK_EQ((intptr_t)err, EPERM);
}

static uint64_t
status_word(const char *name)
{
    char line[256];
    unsigned long long value = ~0ull;
    FILE *file = fopen("/proc/self/status", "r");

    CHECK(file);
    while (fgets(line, sizeof(line), file))
        if (strncmp(line, name, strlen(name)) == 0)
            CHECK_EQ(sscanf(line + strlen(name), ": %llx", &value), 1);
    fclose(file);
    return value;
}

static void
test_rights_are_given_up_for_good(void)
{
    struct rlimit core;

    CHECK_EQ(fdc_confine_rights(false), 0);
    CHECK_EQ(status_word("CapEff"), 0);
    CHECK_EQ(status_word("CapPrm"), 0);
    if (geteuid() == 0)
        CHECK_EQ(status_word("CapBnd"), 0);
    CHECK_EQ(status_word("NoNewPrivs"), 1);
    CHECK_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    CHECK_EQ(getrlimit(RLIMIT_CORE, &core), 0);
    CHECK_EQ(core.rlim_max, 0);
}

static void
test_other_user_in_all_threads_and_no_way_back(void)
{
    if (geteuid() != 0)
        return;
    CHECK_EQ(fdc_confine_rights(true), 0);
    CHECK_EQ(fdc_confine_user(65534, 65534), 0);
    CHECK_EQ(getuid(), 65534);
    CHECK_EQ(getgid(), 65534);
    CHECK_EQ(getgroups(0, NULL), 0);
    CHECK_EQ(status_word("CapEff"), 0);
    CHECK_EQ(status_word("CapPrm"), 0);
    CHECK_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    CHECK_EQ(setuid(0), -1);
    CHECK_EQ(fdc_confine_calls(), 0); /* needs no right */
}

int
main(void)
{
    int failed = 0;

    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0) {
        fprintf(stderr, "this kernel has no seccomp\n");
        return CHECK_SKIPPED;
    }
    RUN(test_what_a_worker_never_needs_is_denied);
    RUN(test_others_cannot_be_signalled_and_oneself_can);
    RUN(test_what_a_driver_needs_is_there);
    RUN(test_threads_that_are_there_already_are_held_too);
    RUN(test_rights_are_given_up_for_good);
    RUN(test_other_user_in_all_threads_and_no_way_back);
    return failed;
}
