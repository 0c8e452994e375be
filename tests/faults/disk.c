/* LD_PRELOAD: the disk is full below the folder FD_TEST_FULL. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t
write(int fd, const void *bytes, size_t size)
{
    const char *folder = getenv("FD_TEST_FULL");
    char name[64], path[4096];
    ssize_t got;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    got = folder != NULL && *folder != '\0' ? readlink(name, path, sizeof(path) - 1) : -1;
    if (got > 0 && (size_t)got > strlen(folder) &&
        memcmp(path, folder, strlen(folder)) == 0) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, fd, bytes, size);
}
