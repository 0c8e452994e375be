/*
 * Opening UCX in somebody else's process.
 *
 * UCX is used to being the guest of honour: as it is loaded it takes over SIGSEGV and its
 * neighbours to print traces, it writes its complaints to standard output, and it loads every
 * plugin it finds, the one for CUDA among them, which asks libcuda.so.1 for devices. Here
 * that may be the shim, in the middle of attaching. So the signals are given back, the log is
 * left out and plugins for accelerators are not loaded. What the user has said in UCX_...
 * variables stays as it is said, but for those plugins.
 *
 * The library stays for good: threads of its own may be in it.
 */
#include "ucx.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fdc/base.h"
#include "fdc/rdma.h"

#define UCX_LIBRARY "libucp.so.0"
#define UCX_PACKAGES "Debian's libucx0 or PyPI's libucx-cu13 have it"

enum { SIGNALS = 64 };

/* ---- what loading it may change ---- */

struct held_signals {
    struct sigaction action[SIGNALS + 1];
    bool known[SIGNALS + 1];
    sigset_t mask;
};

/* Threads that UCX starts meanwhile get no signals that are the program's. */
static void
signals_hold(struct held_signals *held)
{
    sigset_t all;

    for (int number = 1; number <= SIGNALS; number++)
        held->known[number] = sigaction(number, NULL, &held->action[number]) == 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &held->mask);
}

static void
signals_give_back(const struct held_signals *held)
{
    struct sigaction now;

    for (int number = 1; number <= SIGNALS; number++)
        if (held->known[number] && sigaction(number, NULL, &now) == 0 &&
            now.sa_sigaction != held->action[number].sa_sigaction)
            sigaction(number, &held->action[number], NULL);
    pthread_sigmask(SIG_SETMASK, &held->mask, NULL);
}

/* ---- the library ---- */

static int
library_open(struct ucx *ucx, char *why, size_t room)
{
    const char *path = getenv("FD_UCX_LIB");
    const char *missing = NULL;

    if (!path || !*path)
        path = UCX_LIBRARY;
    ucx->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!ucx->library) {
        snprintf(why, room, "the rdma road needs UCX (%s): %s", UCX_PACKAGES,
                 dlerror());
        return -ELIBACC;
    }
#define UCX_FIND(result, name, arguments)                                              \
    *(void **)&ucx->name = dlsym(ucx->library, "ucp_" #name);                          \
    if (!ucx->name)                                                                    \
        missing = "ucp_" #name;
    UCX_FUNCTIONS(UCX_FIND)
#undef UCX_FIND
    *(void **)&ucx->status_string = dlsym(ucx->library, "ucs_status_string");
    if (!ucx->status_string)
        missing = "ucs_status_string";
    if (missing) {
        snprintf(why, room, "the rdma road needs UCX 1.10 or newer: %s has no %s", path,
                 missing);
        return -ELIBACC;
    }
    return 0;
}

/* Settings of the library as a whole, which it has read from the environment already. */
static void
library_settle(const struct ucx *ucx)
{
    ucx_status (*set)(const char *name, const char *value);

    *(void **)&set = dlsym(ucx->library, "ucs_global_opts_set_value");
    if (!set)
        return;
    set("MODULES", "^cuda,cuda_cpy,rocm,ze,gaudi");
    if (!getenv("UCX_LOG_LEVEL") && !fdc_log_on(FDC_LOG_DEBUG))
        set("LOG_LEVEL", "fatal");
}

/*
 * No cache of registrations: what is sent is registered for good, and the cache would
 * watch every mmap() of the program. And no shared memory, unless it is asked for: the
 * worker's memory is closed to others, and there is a road for that. Where the other side
 * is on this machine UCX listens on its loopback device alone. Its tcp copies what it sends
 * into pieces of 8 KiB, a system call each; 64 KiB is the most that a receiver takes that
 * has not been told of more.
 */
static void
config_settle(const struct ucx *ucx, struct ucx_config *config, bool local)
{
    if (!getenv("UCX_RCACHE_ENABLE"))
        ucx->config_modify(config, "RCACHE_ENABLE", "n");
    if (!getenv("UCX_TLS"))
        ucx->config_modify(config, "TLS", "^sm");
    if (!getenv("UCX_TCP_TX_SEG_SIZE"))
        ucx->config_modify(config, "TCP_TX_SEG_SIZE", "64k");
    if (local && !getenv("UCX_NET_DEVICES"))
        ucx->config_modify(config, "NET_DEVICES", "lo");
}

static int
context_make(const struct ucx *ucx, struct ucx_context **context, bool local, char *why,
             size_t room)
{
    struct ucx_params params = {
        .mask = UCX_PARAM_FEATURES,
        .features = UCX_FEATURE_AM | UCX_FEATURE_RMA | UCX_FEATURE_WAKEUP,
    };
    struct ucx_config *config;
    ucx_status status;

    status = ucx->config_read(NULL, NULL, &config);
    if (status == UCX_OK) {
        config_settle(ucx, config, local);
        status =
            ucx->init_version(UCX_API_MAJOR, UCX_API_MINOR, &params, config, context);
        ucx->config_release(config);
    }
    if (status == UCX_OK)
        return 0;
    snprintf(why, room,
             "UCX %s does not start: %s (look at UCX_TLS and UCX_NET_DEVICES; "
             "UCX_LOG_LEVEL=info says more)",
             ucx->get_version_string(), ucx->status_string(status));
    return -ENODEV;
}

int
ucx_open(struct ucx *ucx, struct ucx_context **context, bool local, char *why,
         size_t room)
{
    struct held_signals held;
    int err;

    signals_hold(&held);
    err = library_open(ucx, why, room);
    if (!err) {
        library_settle(ucx);
        err = context_make(ucx, context, local, why, room);
    }
    signals_give_back(&held);
    return err;
}

int
fdc_rdma_probe(char *why, size_t room)
{
    struct held_signals held;
    struct ucx ucx;
    int err;

    signals_hold(&held);
    err = library_open(&ucx, why, room);
    signals_give_back(&held);
    return err;
}

bool
fdc_rdma_device(void)
{
    DIR *folder = opendir("/sys/class/infiniband");
    struct dirent *entry = NULL;

    if (!folder)
        return false;
    do
        entry = readdir(folder);
    while (entry && entry->d_name[0] == '.');
    closedir(folder);
    return entry != NULL;
}
