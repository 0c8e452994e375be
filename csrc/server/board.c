/*
 * The lease's board (fdc/monitor.h): what its processes have together. A quota holds for
 * the sum of all rows, so whoever takes more looks at them with the board locked; giving
 * back needs no lock. The rows of a worker that has died are cleared by the server, once
 * the process has gone and the driver has its memory back.
 */
#include "server/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fdc/monitor.h"

_Static_assert(sizeof(struct fdc_board_row) <= FDC_BOARD_ROW, "a row has room");
_Static_assert(FDC_BOARD_DEVICES >= FDC_DEVICES_MAX, "each device is counted");

struct fdc_board {
    int fd;                             /* the file, which stays the caller's; -1: none */
    uint8_t *rows;                      /* all of it; NULL: we know of nobody else */
    struct fdc_board_row *row;          /* our own */
    struct fdc_board_row alone;         /* it, where there is no file */
};

static struct fdc_board_row *
row_of(const struct fdc_board *board, uint32_t n)
{
    return (struct fdc_board_row *)(board->rows + (size_t)n * FDC_BOARD_ROW);
}

/* The lock belongs to the process: threads are kept apart by who calls. */
static int
lock(int fd, int command, short type, off_t where)
{
    struct flock flock;
    int err;

    memset(&flock, 0, sizeof(flock));
    flock.l_type = type;
    flock.l_whence = SEEK_SET;
    flock.l_start = where;
    flock.l_len = 1;
    /* The kernel sees processes where threads wait: what looks like a deadlock to it passes. */
    do {
        err = fcntl(fd, command, &flock);
    } while (err < 0 && (errno == EINTR || (errno == EDEADLK && usleep(50) <= 0)));
    return err < 0 ? -errno : 0;
}

struct fdc_board *
fdc_board_new(const struct fdc_serve_limits *limits)
{
    struct fdc_board *board = calloc(1, sizeof(*board));
    void *rows;
    int err;

    if (board == NULL)
        return NULL;
    board->fd = -1;
    board->row = &board->alone;
    if (limits->board <= 0)
        return board;
    rows = limits->board_row < FDC_BOARD_ROWS
               ? mmap(NULL, FDC_BOARD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                      limits->board, 0)
               : MAP_FAILED;
    err = rows != MAP_FAILED ? lock(limits->board, F_SETLK, F_WRLCK,
                                    FDC_BOARD_ALIVE + (off_t)limits->board_row)
                             : -EINVAL;
    if (err != 0) {
        /* Without it nobody would know how much the lease has. */
        fdc_log(FDC_LOG_ERROR, "the lease's board cannot be used: error %d", -err);
        if (rows != MAP_FAILED)
            munmap(rows, FDC_BOARD_SIZE);
        free(board);
        return NULL;
    }
    board->fd = limits->board;
    board->rows = rows;
    board->row = row_of(board, limits->board_row);
    return board;
}

void
fdc_board_free(struct fdc_board *board)
{
    if (board == NULL)
        return;
    if (board->rows != NULL)
        munmap(board->rows, FDC_BOARD_SIZE);
    free(board);
}

struct fdc_board_row *
fdc_board_own(struct fdc_board *board)
{
    return board->row;
}

const struct fdc_board_row *
fdc_board_other(const struct fdc_board *board, uint32_t n, uint32_t *pid)
{
    const struct fdc_board_row *row;

    if (board->rows == NULL)
        return NULL;
    row = row_of(board, n);
    *pid = fdc_load_relaxed(&row->pid);
    return *pid != 0 && row != board->row ? row : NULL;
}

void
fdc_board_failed(const struct fdc_board *board, int device, uint64_t *times, uint32_t *xid)
{
    const struct fdc_board_row *last;

    *times = *xid = 0;
    if (board->rows == NULL)
        return;
    last = row_of(board, FDC_BOARD_ROWS - 1);
    *times = fdc_load_relaxed(&last->used[device]);
    *xid = fdc_load_relaxed(&last->xid[device]);
}

bool
fdc_board_company(const struct fdc_board *board)
{
    const struct fdc_board_head *head;

    if (board->rows == NULL)
        return false;
    head = (const void *)(board->rows + (size_t)FDC_BOARD_ROWS * FDC_BOARD_ROW);
    return fdc_load_relaxed(&head->sessions) > 1;
}

uint64_t
fdc_board_sum(const struct fdc_board *board, int what)
{
    uint64_t sum = fdc_load_relaxed(&board->row->used[what]), used;

    for (uint32_t n = 0; board->rows != NULL && n < FDC_BOARD_ROWS; n++) {
        const struct fdc_board_row *row = row_of(board, n);

        if (row == board->row || fdc_load_relaxed(&row->pid) == 0)
            continue;
        used = fdc_load_relaxed(&row->used[what]);
        if (__builtin_add_overflow(sum, used, &sum))
            return UINT64_MAX;
    }
    return sum;
}

bool
fdc_board_take(struct fdc_board *board, int what, uint64_t size, uint64_t limit)
{
    uint64_t sum;
    bool fits;

    if (size > limit)
        return false;
    if (board->fd >= 0 && lock(board->fd, F_SETLKW, F_WRLCK, FDC_BOARD_LOCK + what) != 0)
        return false;
    sum = fdc_board_sum(board, what);
    fits = sum <= limit - size;
    if (fits)
        fdc_board_add(board, what, size);
    if (board->fd >= 0)
        (void)lock(board->fd, F_SETLK, F_UNLCK, FDC_BOARD_LOCK + what);
    return fits;
}

void
fdc_board_add(struct fdc_board *board, int what, uint64_t size)
{
    __atomic_add_fetch(&board->row->used[what], size, __ATOMIC_RELAXED);
}

void
fdc_board_give(struct fdc_board *board, int what, uint64_t size)
{
    __atomic_sub_fetch(&board->row->used[what], size, __ATOMIC_RELAXED);
}
