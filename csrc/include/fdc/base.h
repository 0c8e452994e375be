/* What every folder below csrc/ may use: atomics, sizes, clock, log, hashes. Knows no
 * CUDA. */
#ifndef FDC_BASE_H
#define FDC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FDC_LIKELY(x) __builtin_expect(!!(x), 1)
#define FDC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FDC_EXPORT __attribute__((visibility("default")))
#define FDC_ALIGN_UP(x, a) (((x) + ((a) - 1)) & ~((__typeof__(x))(a) - 1))
#define FDC_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FDC_CACHE_LINE 64

/* The only memory orders in use; each use names its partner in a comment. */
#define fdc_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define fdc_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define fdc_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define fdc_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
/* Where a store must be seen before a later load of another word (sleeper flags). */
#define fdc_load_ordered(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define fdc_store_ordered(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define fdc_exchange_ordered(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)

/* clock.c */
uint64_t fdc_now_ns(void); /* CLOCK_MONOTONIC */

/* One turn of a spin loop. */
static inline void
fdc_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

/* spin.c: how long to spin before sleeping. quick: how often to look before that, for free,
 * and came: what was waited for came at one of these looks. begin: ns that this thread may
 * spin now (0: sleep at once), to be followed by end() if not 0, which says whether what it
 * waited for came meanwhile, and whether only since this CPU was lent to others; learn: how
 * long a wait took that was not over within the budget, and whether it ended with what it
 * waited for and began with spinning. */
#define FDC_SPIN_MAX_NS 200000u
/* Who waits for the device's work: a driver spins for it as long as it takes. */
#define FDC_SPIN_WORK_NS 1000000u
/* A spin longer than this yields at every look: what it waits for may need this CPU. */
#define FDC_SPIN_ALONE_NS 4000u
struct fdc_spin {
    uint64_t budget_ns, max_ns; /* max: FDC_SPIN_MAX_NS unless somebody says otherwise */
    uint32_t cpus, spinners;
    uint32_t late, rest, skip; /* waits that spinning did not help; how many sleep now */
};
uint32_t fdc_cpus_allowed(void);
void fdc_spin_init(struct fdc_spin *spin);
int fdc_spin_quick(const struct fdc_spin *spin);
void fdc_spin_came(struct fdc_spin *spin);
uint64_t fdc_spin_begin(struct fdc_spin *spin);
void fdc_spin_end(struct fdc_spin *spin, bool came, bool lent);
bool fdc_spin_yield(void); /* whether somebody ran here meanwhile */
void fdc_spin_learn(struct fdc_spin *spin, uint64_t waited_ns, bool came, bool spun);

/* past.c: bytes that another processor reads next, or that are more than caches keep. */
#define FDC_COPY_PAST_LEAST (64u << 10) /* fewer are as fast by way of the caches */
void fdc_copy_past(void *to, const void *from, size_t size);

/* futex.c: *word is 32 bits, shared says that other processes wait on it too.
 * wait returns 0 (woken, or *word differs already), -ETIMEDOUT or -EINTR. */
int fdc_futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_us, bool shared);
void fdc_futex_wake(uint32_t *word, int count, bool shared);

/* log.c: FD_LOG=off|error|warn|info|debug[:file]; the shim's default is off, where
 * fdc_log_default() says otherwise. One write(2) a line, no allocation, fork-safe. */
enum fdc_level {
    FDC_LOG_OFF,
    FDC_LOG_ERROR,
    FDC_LOG_WARN,
    FDC_LOG_INFO,
    FDC_LOG_DEBUG
};
void fdc_log_default(enum fdc_level level, const char *who);
/* Where lines go that would go to standard error: it is somebody else's from now on. */
void fdc_log_to(int fd);
bool fdc_log_on(enum fdc_level level);
void fdc_log(enum fdc_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What the other side says goes into a log, maybe onto a terminal: no control characters,
 * and a NUL at the end. */
void fdc_log_printable(char *text, size_t size);

/* sha256.c */
struct fdc_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
};
void fdc_sha256_init(struct fdc_sha256 *hash);
void fdc_sha256_add(struct fdc_sha256 *hash, const void *bytes, size_t size);
void fdc_sha256_end(struct fdc_sha256 *hash, uint8_t digest[32]);
void fdc_sha256(const void *bytes, size_t size, uint8_t digest[32]);
void fdc_hmac_sha256(const void *key, size_t key_size, const void *bytes, size_t size,
                     uint8_t digest[32]);
/* Compares in time that does not depend on the content. */
bool fdc_equal_secret(const void *a, const void *b, size_t size);

/* shm.c: a memfd of this size, which is sealed. Returns the descriptor or -errno. */
int fdc_memfd_new(const char *name, size_t size);
/* The same with its memory there: no touch of it can fail later. */
int fdc_memfd_new_filled(const char *name, size_t size);
/* Checks the seals and the size of a memfd that somebody else made. 0 or -errno. */
int fdc_memfd_check(int fd, size_t size);

/* sock.c: whole reads and writes, descriptors passed. 0 or -errno (-EPIPE: end of
 * file). */
int fdc_sock_write(int fd, const void *bytes, size_t size);
int fdc_sock_read(int fd, void *bytes, size_t size, int64_t timeout_us);
int fdc_sock_send_fds(int fd, const void *bytes, size_t size, const int *fds, int nfds);
int fdc_sock_recv_fds(int fd, void *bytes, size_t size, int *fds, int *nfds);

#endif
