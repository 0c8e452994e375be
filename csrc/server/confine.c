/*
 * What a worker gives up before it looks at its client's first byte. It runs other
 * people's work next to a driver that is large and not ours, so it keeps what a driver
 * may need (files, memory, ioctl, threads, sockets) and loses what only somebody who has
 * broken in would want. A list of what is denied and not of what is allowed, since drivers
 * change. Denied calls fail with EPERM: nothing dies of a driver that tries one.
 */
#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fdc/base.h"
#include "server/server.h"

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#endif
#define X32_BIT 0x40000000u

#define DENIED (SECCOMP_RET_ERRNO | EPERM)

/* Numbers that a header may not know yet are the same everywhere: 424 and up. */
static const uint16_t denied[] = {
    /* other processes */
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_tkill,
    424 /* pidfd_send_signal */, 438 /* pidfd_getfd */, 440 /* process_madvise */,
    448 /* process_mrelease */,
    /* other programs */
    SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_unshare, SYS_setns,
    SYS_personality,
    /* file systems */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_swapon, SYS_swapoff,
    SYS_mknod, SYS_mknodat, SYS_quotactl, SYS_name_to_handle_at, SYS_open_by_handle_at,
    SYS_fanotify_init, 428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */,
    431 /* fsconfig */, 432 /* fsmount */, 433 /* fspick */, 442 /* mount_setattr */,
    443 /* quotactl_fd */,
    /* the kernel */
    SYS_reboot, SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module,
    SYS_delete_module, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_syslog,
    SYS_acct, SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_lookup_dcookie, SYS_vhangup,
    SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime,
    SYS_sethostname, SYS_setdomainname, SYS_add_key, SYS_request_key, SYS_keyctl,
    425 /* io_uring_setup */, 426 /* io_uring_enter */, 427 /* io_uring_register */,
    /* other users */
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
    SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capset,
};

/* Kinds of sockets that nobody here has a use for, and the kernel holes in. */
static const uint16_t no_sockets[] = {
    AF_AX25, AF_IPX, AF_APPLETALK, AF_X25, AF_KEY, AF_PACKET, AF_RDS, AF_CAN, AF_TIPC,
    AF_BLUETOOTH, AF_ALG, AF_NFC, AF_VSOCK, 44 /* AF_XDP */,
};

struct filter {
    struct sock_filter code[320];
    uint16_t length;
};

static void
add(struct filter *filter, uint16_t code, uint32_t value, uint8_t yes, uint8_t no)
{
    filter->code[filter->length++] =
        (struct sock_filter){.code = code, .jt = yes, .jf = no, .k = value};
}

static void
load(struct filter *filter, size_t offset)
{
    add(filter, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void
answer(struct filter *filter, uint32_t action)
{
    add(filter, BPF_RET | BPF_K, action, 0, 0);
}

static size_t
argument(int number)
{
    return offsetof(struct seccomp_data, args) + 8 * (size_t)number; /* low half */
}

/* This call only where its first argument is our own process. */
static void
only_on_ourselves(struct filter *filter, uint32_t call, uint32_t pid)
{
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4);
    load(filter, argument(0));
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, pid, 0, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, DENIED);
}

static void
make_filter(struct filter *filter)
{
    uint32_t pid = (uint32_t)getpid();

    filter->length = 0;
    load(filter, offsetof(struct seccomp_data, arch));
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    answer(filter, SECCOMP_RET_KILL_PROCESS);
    load(filter, offsetof(struct seccomp_data, nr));
    add(filter, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    answer(filter, DENIED);
    /* Typing into somebody's terminal. First, since drivers live of ioctl. */
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5);
    load(filter, argument(1));
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 1, 0);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, TIOCLINUX, 0, 1);
    answer(filter, DENIED);
    answer(filter, SECCOMP_RET_ALLOW);
    for (size_t i = 0; i < FDC_COUNT(denied); i++) {
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, denied[i], 0, 1);
        answer(filter, DENIED);
    }
    /* Threads, not processes. What clone3 is asked for cannot be seen; libraries take
     * clone where they are told that there is no such call. */
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    answer(filter, SECCOMP_RET_ERRNO | ENOSYS);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
    load(filter, argument(0));
    add(filter, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, DENIED);
    only_on_ourselves(filter, SYS_kill, pid);
    only_on_ourselves(filter, SYS_tgkill, pid);
    only_on_ourselves(filter, SYS_rt_sigqueueinfo, pid);
    only_on_ourselves(filter, SYS_rt_tgsigqueueinfo, pid);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0,
        (uint8_t)(2 * FDC_COUNT(no_sockets) + 1));
    load(filter, argument(0));
    for (size_t i = 0; i < FDC_COUNT(no_sockets); i++) {
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, no_sockets[i], 0, 1);
        answer(filter, DENIED);
    }
    answer(filter, SECCOMP_RET_ALLOW);
}

int
fdc_confine_calls(void)
{
    struct filter filter;
    struct sock_fprog program;

    make_filter(&filter);
    program = (struct sock_fprog){.len = filter.length, .filter = filter.code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    /* For the driver's threads too. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                &program) != 0)
        return -errno;
    return 0;
}

int
fdc_confine_rights(bool may_change_user)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct set[2] = {{0}};
    struct rlimit none = {0, 0};

    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return -errno;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (geteuid() == 0)
        for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (geteuid() == 0 && may_change_user)
        set[0].permitted = set[0].effective = 1u << CAP_SETUID | 1u << CAP_SETGID;
    if (syscall(SYS_capset, &head, set) != 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

int
fdc_confine_user(uint32_t uid, uint32_t gid)
{
    /* libc does this for all threads at once. */
    if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(uid, uid, uid) != 0)
        return -errno;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a new user is dumpable again */
    return 0;
}
