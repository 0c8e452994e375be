/*
 * The floor: what a round trip costs without any CUDA in it. Reads commands like
 * ../loop.c does; a second process answers.
 *
 *   shm N      one 64-byte cache line each way in shared memory, both sides spin
 *   tcp N      64 bytes each way over loopback, TCP_NODELAY, both sides block
 *   local N    a call through a function pointer in this process
 *   copy BYTES N   memcpy
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct line {
    uint64_t flag;
    uint8_t bytes[56];
} __attribute__((aligned(64)));

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
        ssize_t done = out ? write(fd, bytes, size) : read(fd, bytes, size);

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

static int answer(int value) { return value + 1; }

int
main(void)
{
    struct line *lines = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                              -1, 0);
    int (*volatile function)(int) = answer;
    char text[128], word[16], message[64] = "";
    uint64_t number = 0;
    char *from = malloc(64 << 20), *to = malloc(64 << 20);
    int far, fd = connected(&far);

    if (lines == MAP_FAILED || fd < 0)
        return 1;
    memset(from, 1, 64 << 20);
    memset(to, 2, 64 << 20);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(text, sizeof(text), stdin) != NULL) {
        long a = 0, b = 0;
        uint64_t start;
        pid_t child = 0;

        if (sscanf(text, "%15s %ld %ld", word, &a, &b) < 2)
            continue;
        if (strcmp(word, "shm") == 0 || strcmp(word, "tcp") == 0) {
            child = fork();
            if (child == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (long i = 0; i < a; i++) {
                    if (word[0] == 's') {
                        hear(&lines[0], number + (uint64_t)i + 1);
                        say(&lines[1], number + (uint64_t)i + 1);
                    } else {
                        transfer(far, message, sizeof(message), 0);
                        transfer(far, message, sizeof(message), 1);
                    }
                }
                _exit(0);
            }
            usleep(2000);
        }
        start = now();
        for (long i = 0; i < a && word[0] == 's'; i++) {
            say(&lines[0], number + (uint64_t)i + 1);
            hear(&lines[1], number + (uint64_t)i + 1);
        }
        for (long i = 0; i < a && word[0] == 't'; i++) {
            transfer(fd, message, sizeof(message), 1);
            transfer(fd, message, sizeof(message), 0);
        }
        for (long i = 0; i < a && word[0] == 'l'; i++)
            function((int)i);
        for (long i = 0; i < b && word[0] == 'c'; i++) {
            memcpy(to, from, (size_t)a);
            __asm__ volatile("" : : "r"(to) : "memory");
        }
        printf("%llu 0\n", (unsigned long long)(now() - start));
        number += (uint64_t)a;
    }
    return 0;
}
