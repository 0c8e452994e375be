/*
 * What kernels print. It comes as messages of its own, which may be taken in by any thread
 * at any time: by one that has stopped in the middle of fwrite() to fetch managed memory,
 * or while another thread holds the stream's lock and waits for an answer. So it is kept,
 * and written by threads that have got what they waited for, under nothing but the
 * stream's own lock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"

struct fdc_print {
    struct fdc_print *next;
    size_t size;
    char bytes[];
};

int
fdc_print_keep(bool error, const void *bytes, size_t size)
{
    struct fdc_prints *prints = &fdc_process.prints[error];
    struct fdc_print *print = malloc(sizeof(*print) + size);

    if (print == NULL)
        return -ENOMEM;
    print->next = NULL;
    print->size = size;
    memcpy(print->bytes, bytes, size);
    pthread_mutex_lock(&prints->lock);
    if (prints->last != NULL)
        prints->last->next = print;
    else
        prints->first = print;
    prints->last = print;
    pthread_mutex_unlock(&prints->lock);
    __atomic_add_fetch(&fdc_process.printing, 1, __ATOMIC_RELEASE);
    return 0;
}

static struct fdc_print *
take(struct fdc_prints *prints)
{
    struct fdc_print *print;

    pthread_mutex_lock(&prints->lock);
    print = prints->first;
    if (print != NULL) {
        prints->first = print->next;
        if (print->next == NULL)
            prints->last = NULL;
    }
    pthread_mutex_unlock(&prints->lock);
    return print;
}

/* Under the stream's lock. */
static void
write_all(struct fdc_prints *prints, FILE *to)
{
    struct fdc_print *print;
    uint32_t count = 0;

    while ((print = take(prints)) != NULL) {
        fwrite(print->bytes, 1, print->size, to);
        free(print);
        count++;
    }
    if (count == 0)
        return;
    fflush(to);
    __atomic_sub_fetch(&fdc_process.printing, count, __ATOMIC_RELEASE);
}

/* Not counted as written before it is, so whoever comes meanwhile waits for the lock. */
void
fdc_print_all(bool wait)
{
    FILE *to[] = {stdout, stderr};

    if (fdc_thread_self()->in_fault)
        return;
    for (size_t i = 0; i < FDC_COUNT(to); i++) {
        if (wait)
            flockfile(to[i]);
        else if (ftrylockfile(to[i]) != 0)
            continue;
        write_all(&fdc_process.prints[i], to[i]);
        funlockfile(to[i]);
    }
}
