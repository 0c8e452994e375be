/* Clock, futex, log, memfds and socket helpers. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "check.h"
#include "fdc/base.h"

static void
test_clock_goes_on(void)
{
    uint64_t before = fdc_now_ns();

    usleep(1000);
    fdc_pause();
    CHECK(fdc_now_ns() >= before + 1000000);
}

static uint32_t word;

static void *
change_word(void *arg)
{
    usleep(20000);
    fdc_store_release(&word, 1);
    fdc_futex_wake(&word, 1, arg != NULL);
    return NULL;
}

static void
test_futex_wakes_and_times_out(void)
{
    pthread_t thread;

    for (int shared = 0; shared < 2; shared++) {
        fdc_store_release(&word, 0);
        errno = EBADMSG;
        CHECK_EQ(fdc_futex_wait(&word, 0, 1000, shared), -ETIMEDOUT);
        CHECK_EQ(fdc_futex_wait(&word, 7, -1, shared), 0);
        CHECK_EQ(errno, EBADMSG);
        CHECK_EQ(pthread_create(&thread, NULL, change_word, shared ? &word : NULL), 0);
        while (fdc_load_acquire(&word) == 0)
            CHECK_EQ(fdc_futex_wait(&word, 0, -1, shared), 0);
        pthread_join(thread, NULL);
    }
}

static size_t
read_all(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "r");
    size_t size;

    CHECK(file);
    size = fread(text, 1, room - 1, file);
    text[size] = 0;
    fclose(file);
    return size;
}

static void
test_log_writes_lines_of_its_level(void)
{
    char path[] = "/tmp/fdc_log_XXXXXX", value[64], text[4096], long_text[2000];
    int fd = mkstemp(path), newest;

    CHECK(fd >= 0);
    snprintf(value, sizeof(value), "warn:%s", path);
    setenv("FD_LOG", value, 1);
    fdc_log_default(FDC_LOG_DEBUG, "tester");
    CHECK(fdc_log_on(FDC_LOG_ERROR));
    CHECK(fdc_log_on(FDC_LOG_WARN));
    CHECK(!fdc_log_on(FDC_LOG_INFO));
    CHECK(!fdc_log_on(FDC_LOG_OFF));
    errno = EBADMSG;
    fdc_log(FDC_LOG_INFO, "not this");
    fdc_log(FDC_LOG_WARN, "device %d is hot", 3);
    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = 0;
    fdc_log(FDC_LOG_ERROR, "%s", long_text);
    CHECK_EQ(errno, EBADMSG);
    CHECK_EQ(read_all(path, text, sizeof(text)), strlen(text));
    CHECK(!strstr(text, "not this"));
    CHECK(strstr(text, " tester["));
    CHECK(strstr(text, " warn: device 3 is hot\n"));
    CHECK_EQ(strlen(strstr(text, "hot\n") + 4), 1024);
    CHECK_EQ(text[strlen(text) - 1], '\n');
    unlink(path);
    close(fd);
    newest = open("/dev/null", O_RDONLY);
    close(newest);
    close(newest - 1); /* the log's file, which stays open in a real program */
}

static void
test_log_is_silent_by_default(void)
{
    unsetenv("FD_LOG");
    CHECK(!fdc_log_on(FDC_LOG_ERROR));
    fdc_log_default(FDC_LOG_WARN, NULL);
    CHECK(fdc_log_on(FDC_LOG_WARN));
    CHECK(!fdc_log_on(FDC_LOG_INFO));
    setenv("FD_LOG", "off", 1);
    fdc_log_default(FDC_LOG_WARN, NULL);
    CHECK(!fdc_log_on(FDC_LOG_ERROR));
    setenv("FD_LOG", "nonsense", 1);
    fdc_log_default(FDC_LOG_ERROR, NULL);
    CHECK(fdc_log_on(FDC_LOG_ERROR));
    CHECK(!fdc_log_on(FDC_LOG_WARN));
}

static void
test_log_level_that_is_none_is_said_once(void)
{
    char path[] = "/tmp/fdc_log_XXXXXX", value[64], text[4096];
    int fd = mkstemp(path), newest;

    CHECK(fd >= 0);
    snprintf(value, sizeof(value), "loud:%s", path);
    setenv("FD_LOG", value, 1);
    fdc_log_default(FDC_LOG_WARN, NULL);
    fdc_log_default(FDC_LOG_WARN, NULL);
    fdc_log(FDC_LOG_WARN, "the default");
    read_all(path, text, sizeof(text));
    CHECK(strstr(text, "FD_LOG=loud:") != NULL);
    CHECK(strstr(text, "the default") != NULL);
    CHECK(strstr(strstr(text, "FD_LOG=loud:") + 1, "FD_LOG=loud:") == NULL);
    unlink(path);
    close(fd);
    newest = open("/dev/null", O_RDONLY);
    for (int i = 0; i < 3; i++)
        close(newest - i); /* and the log's file, which was opened twice */
}

static void
test_what_others_say_is_printable(void)
{
    char text[] = "a\tb\x1b[1m\177 \xc3\xa9", full[4] = {'o', 'k', '\n', 'x'};

    fdc_log_printable(text, sizeof(text));
    CHECK_STR(text, "a?b?[1m? \xc3\xa9");
    fdc_log_printable(full, sizeof(full));
    CHECK_STR(full, "ok?");
}

static void
test_memfd_keeps_its_size(void)
{
    int fd = fdc_memfd_new("test", 8192), plain;

    CHECK(fd >= 0);
    CHECK_EQ(fdc_memfd_check(fd, 8192), 0);
    CHECK_EQ(fdc_memfd_check(fd, 4096), -EINVAL);
    CHECK_EQ(ftruncate(fd, 4096), -1);
    CHECK_EQ(ftruncate(fd, 16384), -1);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    CHECK_EQ(fdc_memfd_check(fd, 4096), -EBADF);
    plain = memfd_create("plain", MFD_ALLOW_SEALING);
    CHECK_EQ(ftruncate(plain, 4096), 0);
    CHECK_EQ(fdc_memfd_check(plain, 4096), -EPERM);
    CHECK_EQ(fcntl(plain, F_ADD_SEALS,
                   F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
             0);
    CHECK_EQ(fdc_memfd_check(plain, 4096), -EPERM); /* it could not be mapped */
    close(plain);
}

static void
test_sockets_read_and_write_whole(void)
{
    uint8_t *sent = malloc(1 << 20), *got = calloc(1, 1 << 20);
    int socks[2], status;
    pid_t child;

    CHECK(sent && got);
    for (int i = 0; i < 1 << 20; i++)
        sent[i] = (uint8_t)(i * 7 + (i >> 9));
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(socks[0]);
        usleep(10000);
        fcntl(socks[1], F_SETFL, O_NONBLOCK);
        CHECK_EQ(fdc_sock_write(socks[1], sent, 1 << 20), 0);
        _exit(0);
    }
    close(socks[1]);
    CHECK_EQ(fdc_sock_read(socks[0], got, 1, 0), -ETIMEDOUT);
    CHECK_EQ(fdc_sock_read(socks[0], got, 1 << 20, 10000000), 0);
    CHECK_BYTES(sent, got, 1 << 20);
    CHECK_EQ(fdc_sock_read(socks[0], got, 1, -1), -EPIPE);
    CHECK_EQ(fdc_sock_write(socks[0], sent, 1), -EPIPE);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    close(socks[0]);
    free(sent);
    free(got);
}

static void
test_descriptors_pass(void)
{
    int socks[2], pipes[2], fds[4], nfds, before;
    char text[8] = {0};

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
    CHECK_EQ(pipe(pipes), 0);
    CHECK_EQ(fdc_sock_send_fds(socks[0], "hello", 6, pipes, 2), 0);
    nfds = 4;
    CHECK_EQ(fdc_sock_recv_fds(socks[1], text, 6, fds, &nfds), 0);
    CHECK_EQ(nfds, 2);
    CHECK_STR(text, "hello");
    CHECK(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    CHECK_EQ(read(pipes[0], text, 1), 1);
    close(fds[0]);
    close(fds[1]);

    /* More than there is room for: refused, and none is left open. */
    CHECK_EQ(fdc_sock_send_fds(socks[0], "hello", 6, pipes, 2), 0);
    before = check_open_fds();
    nfds = 1;
    CHECK_EQ(fdc_sock_recv_fds(socks[1], text, 6, fds, &nfds), -EPROTO);
    CHECK_EQ(check_open_fds(), before);
    CHECK_EQ(fdc_sock_send_fds(socks[0], "hello", 6, NULL, 0), 0);
    CHECK_EQ(fdc_sock_read(socks[1], text, 6, 0), 0);
    CHECK_EQ(fdc_sock_send_fds(socks[0], "hello", 6, fds, 17), -EINVAL);
    close(socks[0]);
    nfds = 1;
    CHECK_EQ(fdc_sock_recv_fds(socks[1], text, 6, fds, &nfds), -EPIPE);
    close(socks[1]);
    close(pipes[0]);
    close(pipes[1]);
}

int
main(void)
{
    int failed = 0;

    RUN(test_clock_goes_on);
    RUN(test_futex_wakes_and_times_out);
    RUN(test_log_writes_lines_of_its_level);
    RUN(test_log_is_silent_by_default);
    RUN(test_log_level_that_is_none_is_said_once);
    RUN(test_what_others_say_is_printable);
    RUN(test_memfd_keeps_its_size);
    RUN(test_sockets_read_and_write_whole);
    RUN(test_descriptors_pass);
    return failed;
}
