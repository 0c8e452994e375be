/*
 * The floor: what the movement of bytes costs without any CUDA in it. Reads commands like
 * ../loop.c does and answers with nanoseconds; where there is another side it is a process
 * of its own.
 *
 *   shm N            one 64-byte cache line each way in shared memory, both sides spin
 *   tcp N RTT_US     64 bytes each way over loopback, TCP_NODELAY, both sides block; the
 *                    answer is held back until so many microseconds have passed
 *   push N BYTES     N records of so many bytes into a ring of 1 MiB that somebody empties;
 *                    each goes on where the last one ended, as the rings of calls do
 *   stream BYTES N   N times so many bytes over a loopback connection, 1 MiB a write; the
 *                    other side says at the end of each that it has come
 *   local N          a call through a function pointer in this process
 *   copy BYTES N     memcpy
 *   spawn N          a process that ends at once
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RING = 1 << 20, WRITE = 1 << 20, BULK = 64 << 20 };

struct line {
    uint64_t flag;
    uint8_t bytes[56];
} __attribute__((aligned(64)));

struct ring {
    struct line tail, head; /* bytes written, bytes read */
    uint8_t bytes[RING];
};

struct shared {
    struct line line[2];
    struct ring ring;
};

static struct shared *shared;
static char *from, *to;
static int near, far;

static uint64_t
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Waits for the other side's number; pairs with the release in say(). */
static void
hear(struct line *line, uint64_t number)
{
    while (__atomic_load_n(&line->flag, __ATOMIC_ACQUIRE) != number)
        __builtin_ia32_pause();
}

static void
say(struct line *line, uint64_t number)
{
    memset(line->bytes, (int)number, sizeof(line->bytes));
    __atomic_store_n(&line->flag, number, __ATOMIC_RELEASE);
}

static void
transfer(int fd, void *bytes, size_t size, int out)
{
    while (size > 0) {
        size_t part = size < WRITE ? size : WRITE;
        ssize_t done = out ? write(fd, bytes, part) : read(fd, bytes, part);

        if (done <= 0)
            _exit(1);
        bytes = (char *)bytes + done;
        size -= (size_t)done;
    }
}

static int
connected(int *other)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;

    if (bind(listener, (void *)&address, size) || listen(listener, 1) ||
        getsockname(listener, (void *)&address, &size) || connect(fd, (void *)&address, size))
        return -1;
    *other = accept(listener, NULL, NULL);
    close(listener);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(*other, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

/* ---- each command: this side, and the other ---- */

static void
lines_here(uint64_t number, long count)
{
    for (long i = 1; i <= count; i++) {
        say(&shared->line[0], number + (uint64_t)i);
        hear(&shared->line[1], number + (uint64_t)i);
    }
}

static void
lines_there(uint64_t number, long count)
{
    for (long i = 1; i <= count; i++) {
        hear(&shared->line[0], number + (uint64_t)i);
        say(&shared->line[1], number + (uint64_t)i);
    }
}

static void
socket_here(long count)
{
    char message[64] = "";

    for (long i = 0; i < count; i++) {
        transfer(near, message, sizeof(message), 1);
        transfer(near, message, sizeof(message), 0);
    }
}

static void
socket_there(long count, long rtt_us)
{
    char message[64];

    for (long i = 0; i < count; i++) {
        uint64_t due;

        transfer(far, message, sizeof(message), 0);
        due = now() + (uint64_t)rtt_us * 1000;
        while (now() < due)
            __builtin_ia32_pause();
        transfer(far, message, sizeof(message), 1);
    }
}

/* A size and so many bytes, in steps of eight. */
static uint64_t
record(long bytes)
{
    return ((uint64_t)bytes + 15) & ~(uint64_t)7;
}

/* Where a record begins whose turn it is at this position: it does not wrap. */
static uint64_t
begins(uint64_t at, uint64_t size)
{
    return at % RING + size > RING ? (at / RING + 1) * RING : at;
}

static void
ring_here(long count, long bytes)
{
    struct ring *ring = &shared->ring;
    uint64_t tail = ring->tail.flag, head = tail, size = record(bytes);

    for (long i = 0; i < count; i++) {
        uint8_t *at;

        tail = begins(tail, size);
        at = ring->bytes + tail % RING;
        while (tail + size - head > RING) {
            head = __atomic_load_n(&ring->head.flag, __ATOMIC_ACQUIRE);
            __builtin_ia32_pause();
        }
        memcpy(at + 8, from, (size_t)bytes);
        memcpy(at, &(uint64_t){ (uint64_t)bytes }, 8);
        tail += size;
        __atomic_store_n(&ring->tail.flag, tail, __ATOMIC_RELEASE);
    }
}

static void
ring_there(long count, long bytes)
{
    struct ring *ring = &shared->ring;
    uint64_t head = ring->head.flag, tail = head, size = record(bytes);

    for (long i = 0; i < count; i++) {
        while (tail == head) {
            tail = __atomic_load_n(&ring->tail.flag, __ATOMIC_ACQUIRE);
            __builtin_ia32_pause();
        }
        head = begins(head, size);
        memcpy(to, ring->bytes + head % RING, (size_t)size);
        head += size;
        __atomic_store_n(&ring->head.flag, head, __ATOMIC_RELEASE);
    }
}

static void
stream_here(long bytes, long count)
{
    char done;

    for (long i = 0; i < count; i++) {
        transfer(near, from, (size_t)bytes, 1);
        transfer(near, &done, 1, 0);
    }
}

static void
stream_there(long bytes, long count)
{
    for (long i = 0; i < count; i++) {
        transfer(far, to, (size_t)bytes, 0);
        transfer(far, to, 1, 1);
    }
}

static int answer(int value) { return value + 1; }

static void
alone(const char *word, long a, long b)
{
    int (*volatile function)(int) = answer;

    if (strcmp(word, "local") == 0)
        for (long i = 0; i < a; i++)
            function((int)i);
    else if (strcmp(word, "copy") == 0 && a <= BULK)
        for (long i = 0; i < b; i++) {
            memcpy(to, from, (size_t)a);
            __asm__ volatile("" : : "r"(to) : "memory");
        }
    else if (strcmp(word, "spawn") == 0)
        for (long i = 0; i < a; i++) {
            char *words[] = { "/bin/true", NULL }, *none[] = { NULL };
            pid_t pid;

            if (posix_spawn(&pid, words[0], NULL, NULL, words, none) == 0)
                waitpid(pid, NULL, 0);
        }
}

static void
there(const char *word, uint64_t number, long a, long b)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (strcmp(word, "shm") == 0)
        lines_there(number, a);
    else if (strcmp(word, "tcp") == 0)
        socket_there(a, b);
    else if (strcmp(word, "push") == 0)
        ring_there(a, b);
    else
        stream_there(a, b);
    _exit(0);
}

static void
here(const char *word, uint64_t number, long a, long b)
{
    if (strcmp(word, "shm") == 0)
        lines_here(number, a);
    else if (strcmp(word, "tcp") == 0)
        socket_here(a);
    else if (strcmp(word, "push") == 0)
        ring_here(a, b);
    else
        stream_here(a, b);
}

static int
has_other_side(const char *word, long a, long b)
{
    return strcmp(word, "shm") == 0 || strcmp(word, "tcp") == 0 ||
           (strcmp(word, "push") == 0 && b > 0 && b < RING / 4) ||
           (strcmp(word, "stream") == 0 && a <= BULK);
}

int
main(void)
{
    char text[128], word[16];
    uint64_t number = 0;

    signal(SIGCHLD, SIG_DFL);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    near = connected(&far);
    from = malloc(BULK);
    to = malloc(BULK);
    if (shared == MAP_FAILED || near < 0 || from == NULL || to == NULL)
        return 1;
    memset(from, 1, BULK);
    memset(to, 2, BULK);
    memset(shared, 0, sizeof(*shared));
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(text, sizeof(text), stdin) != NULL) {
        long a = 0, b = 0;
        uint64_t start, took;
        pid_t other = 0;

        if (sscanf(text, "%15s %ld %ld", word, &a, &b) < 2)
            continue;
        if (has_other_side(word, a, b)) {
            other = fork();
            if (other == 0)
                there(word, number, a, b);
            usleep(2000);
        }
        start = now();
        if (other != 0)
            here(word, number, a, b);
        else
            alone(word, a, b);
        took = now() - start;
        if (other > 0)
            waitpid(other, NULL, 0);
        printf("%llu 0\n", (unsigned long long)took);
        number += (uint64_t)a;
    }
    return 0;
}
