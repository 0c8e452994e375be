/*
 * A worker for tests of the shim: a process of its own that serves one session on the CPU
 * device over a socket pair, as fdserver would start it. The shim finds the socket through
 * FD_SESSION ("fd N": connected and past the handshake).
 *
 * libfdc.so and libfdcpu.so lie in ../../lib of the test program; FD_TEST_DRIVER names
 * another driver library, FD_TEST_ROAD=tcp another transport. A test that attached ends with
 * worker_exit(): the session's descriptors stay open until the process ends.
 */
#ifndef WORKER_H
#define WORKER_H

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "cuda_calls.h"
#include "fdc/transport.h"
#include "loopback.h"
#include "server/server.h"

static pid_t worker_pid;

static inline void
worker_path(char path[PATH_MAX], const char *name)
{
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - 64);
    char *end;

    CHECK(size > 0);
    path[size] = '\0';
    end = strrchr(path, '/'); /* .../test/shim/test_x */
    strcpy(end, "/../../lib/");
    strcat(path, name);
}

/* In the worker process. Its libfdc.so is not the shim's own code of the same names. */
static inline void
worker_main(enum fdc_road road, const int *socks, int nsocks, int devices)
{
    const char *host_mb = getenv("FD_TEST_HOST_MB");
    struct fdc_serve_limits limits = {
        .devices = devices,
        .host_memory = host_mb != NULL ? (uint64_t)atoi(host_mb) << 20 : 0,
    };
    struct fdc_link_size size = FDC_LINK_SIZE_DEFAULT;
    char path[PATH_MAX];
    struct fdc_driver driver;
    struct fdc_serve *serve;
    struct fdc_link *link;
    void *lib;
    int (*load)(const char *, struct fdc_driver *);
    int (*link_worker)(enum fdc_road, const int *, int, const struct fdc_link_size *,
                       struct fdc_link **);
    int (*serve_new)(const struct fdc_driver *, struct fdc_link *,
                     const struct fdc_serve_limits *, struct fdc_serve **);
    int (*serve_run)(struct fdc_serve *);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    worker_path(path, "libfdc.so");
    lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        _exit(2);
    }
    *(void **)&load = dlsym(lib, "fdc_driver_load");
    *(void **)&link_worker = dlsym(lib, "fdc_link_worker");
    *(void **)&serve_new = dlsym(lib, "fdc_serve_new");
    *(void **)&serve_run = dlsym(lib, "fdc_serve_run");
    if (getenv("FD_TEST_DRIVER") != NULL)
        strcpy(path, getenv("FD_TEST_DRIVER"));
    else
        worker_path(path, "libfdcpu.so");
    for (int i = 0; i < devices; i++)
        limits.ordinal[i] = i;
    if (load(path, &driver) || driver.cuInit(0) != CUDA_SUCCESS ||
        link_worker(road, socks, nsocks, &size, &link) ||
        serve_new(&driver, link, &limits, &serve)) {
        fprintf(stderr, "the worker cannot start\n");
        _exit(2);
    }
    _exit(serve_run(serve) == 0 ? 0 : 3);
}

/* Forks one; its part of the session's file goes to text. */
static inline pid_t
worker_fork(int number, int devices, char *text, size_t room)
{
    const char *wanted = getenv("FD_TEST_ROAD");
    bool tcp = wanted != NULL && strcmp(wanted, "tcp") == 0;
    int pair[2], ours[2], theirs[2], nsocks = tcp ? 2 : 1;
    char first[16];
    pid_t pid;

    for (int i = 0; i < nsocks; i++) {
        if (tcp)
            loopback_connect(&pair[0], &pair[1]);
        else
            CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        ours[i] = pair[0];
        theirs[i] = pair[1];
    }
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(0);
        for (int i = 0; i < nsocks; i++)
            close(ours[i]);
        snprintf(first, sizeof(first), "%d", number * devices);
        setenv("FD_CPU_FIRST", first, 0);
        worker_main(tcp ? FDC_ROAD_TCP : FDC_ROAD_SHM, theirs, nsocks, devices);
    }
    for (int i = 0; i < nsocks; i++)
        close(theirs[i]);
    if (tcp)
        snprintf(text, room, "server w%d\nfd %d %d\nroad tcp\n", number, ours[0], ours[1]);
    else
        snprintf(text, room, "server w%d\nfd %d\nroad shm\n", number, ours[0]);
    return pid;
}

/* Starts workers with so many devices each and points FD_SESSION at them. */
static inline void
workers_start(int workers, int devices)
{
    char name[] = "/tmp/fdc-test-XXXXXX", text[96], number[16];
    int file;

    snprintf(number, sizeof(number), "%d", devices);
    setenv("FD_CPU_DEVICES", number, 0);
    setenv("FD_CPU_MEMORY_MB", "256", 0);
    setenv("FD_CPU_STRICT", "1", 0);
    file = mkstemp(name);
    CHECK(file >= 0);
    for (int i = 0; i < workers; i++) {
        worker_pid = worker_fork(i, devices, text, sizeof(text));
        CHECK_EQ(write(file, text, strlen(text)), (ssize_t)strlen(text));
    }
    close(file);
    setenv("FD_SESSION", name, 1);
}

static inline void
worker_start(int devices)
{
    workers_start(1, devices);
}

/* A worker, a session, and the first device's primary context current. */
static inline CUcontext
worker_context(void)
{
    CUcontext context;

    worker_start(1);
    CHECK_EQ(cuInit(0), 0);
    unlink(getenv("FD_SESSION"));
    CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), 0);
    CHECK_EQ(cuCtxSetCurrent(context), 0);
    return context;
}

static inline void
worker_exit(void)
{
    fflush(NULL);
    exit(0);
}

/* Skips the program where the products are not built. */
static inline void
worker_needed(void)
{
    char path[PATH_MAX];

    worker_path(path, "libfdc.so");
    if (access(path, R_OK) != 0)
        CHECK_SKIP("libfdc.so is not built");
    worker_path(path, "libfdcpu.so");
    if (getenv("FD_TEST_DRIVER") == NULL && access(path, R_OK) != 0)
        CHECK_SKIP("libfdcpu.so is not built");
}

#endif
