/*
 * Memory that two processes share: memfds whose size nobody can change any more, so
 * that touching a mapping of one cannot end in SIGBUS because a peer shrank it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdc/base.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* since Linux 6.3; older kernels refuse it */
#endif

enum { SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

int
fdc_memfd_new(const char *name, size_t size)
{
    int fd, err;

    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SIZE_SEALS) < 0) {
        err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

int
fdc_memfd_new_filled(const char *name, size_t size)
{
    int fd = fdc_memfd_new(name, size), err;

    if (fd < 0)
        return fd;
    do
        err = fallocate(fd, 0, 0, (off_t)size) < 0 ? -errno : 0;
    while (err == -EINTR);
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

int
fdc_memfd_check(int fd, size_t size)
{
    struct stat info;
    int seals;

    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -errno; /* EINVAL: not a memfd */
    if ((seals & SIZE_SEALS) != SIZE_SEALS || (seals & F_SEAL_WRITE))
        return -EPERM;
    if (fstat(fd, &info) < 0)
        return -errno;
    if (info.st_size < 0 || (size_t)info.st_size != size)
        return -EINVAL;
    return 0;
}
