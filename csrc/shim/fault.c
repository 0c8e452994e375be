/*
 * The one signal handler of this library, installed with the first managed memory: a
 * thread of the program that touches such memory while its bytes are elsewhere fetches
 * them here and goes on. Every other fault goes to whoever handled them before.
 *
 * The signal comes from the program's own access, so nothing of this library is half
 * done in this thread, but for a message whose bytes are read from managed memory while
 * it is claimed; then nothing can be fetched, and the fault is passed on.
 */
#include "managed.h"
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

static bool
was_write(const ucontext_t *context)
{
#ifdef __x86_64__
    return (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
    (void)context;
    return true; /* not known: it may write */
#endif
}

/* To the handler that was there before ours. */
static void
pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *before = &fdc_process.fault_before;

    if ((before->sa_flags & SA_SIGINFO) != 0) {
        before->sa_sigaction(number, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    } else if (info->si_code > 0 || before->sa_handler == SIG_DFL) {
        /* The access is made again, and ends as it would have without us; one that a
         * process sent has to be sent again. */
        struct sigaction plain = {.sa_handler = SIG_DFL};

        sigaction(number, &plain, NULL);
        if (info->si_code <= 0)
            raise(number);
    }
}

static void
fault(int number, siginfo_t *info, void *context)
{
    uint64_t address = (uint64_t)(uintptr_t)info->si_addr;
    struct fdc_thread *self = fdc_self;
    int saved = errno;
    bool ours = false;

    if (info->si_code == SEGV_ACCERR && !fdc_process.forked &&
        (self == NULL || (!self->in_message && !self->in_fault))) {
        struct fdc_session *session;

        self = fdc_thread_self();
        self->in_fault = true;
        for (int i = 0; !ours && (session = fdc_session_at(i)) != NULL; i++)
            ours = fdc_managed_fault(session, address, was_write(context));
        self->in_fault = false;
    }
    errno = saved;
    if (!ours)
        pass_on(number, info, context);
}

CUresult
fdc_fault_install(void)
{
    struct sigaction action = {.sa_sigaction = fault};
    CUresult result = CUDA_SUCCESS;

    if (fdc_load_acquire(&fdc_process.fault_installed))
        return CUDA_SUCCESS;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&fdc_process.init);
    if (!fdc_process.fault_installed) {
        if (sigaction(SIGSEGV, NULL, &fdc_process.fault_before) != 0 ||
            sigaction(SIGSEGV, &action, NULL) != 0)
            result = CUDA_ERROR_OPERATING_SYSTEM;
        else
            fdc_store_release(&fdc_process.fault_installed, true); /* with the above */
    }
    pthread_mutex_unlock(&fdc_process.init);
    return result;
}
