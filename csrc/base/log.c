/*
 * Log lines, one write(2) each, to stderr or to a file that FD_LOG names. Called from
 * any thread, from forked children and from inside other people's programs: no lock, no
 * allocation, errno kept.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fdc/base.h"

enum { LEVEL_UNKNOWN = -1, LINE_MAX_BYTES = 1024 };

static const char *const level_names[] = {"off", "error", "warn", "info", "debug"};

static int current_level = LEVEL_UNKNOWN;
static int default_level = FDC_LOG_OFF;
static const char *who_logs = "fdcore";
static int log_fd = STDERR_FILENO;

static int
level_by_name(const char *name, size_t length)
{
    for (size_t i = 0; i < FDC_COUNT(level_names); i++)
        if (strlen(level_names[i]) == length &&
            memcmp(name, level_names[i], length) == 0)
            return (int)i;
    return LEVEL_UNKNOWN;
}

/* Two threads may do this at once: both come to the same result, one file stays open
 * too many at worst. */
static __attribute__((noinline)) int
level_from_environment(void)
{
    const char *value = getenv("FD_LOG"), *colon;
    int level = LEVEL_UNKNOWN, saved = errno, fd;
    static uint32_t said;
    bool wrong = false;

    if (value && *value) {
        colon = strchr(value, ':');
        level = level_by_name(value, colon ? (size_t)(colon - value) : strlen(value));
        if (colon && colon[1]) {
            fd = open(colon + 1, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
            if (fd >= 0)
                fdc_store_relaxed(&log_fd, fd);
        }
        wrong = level == LEVEL_UNKNOWN;
    }
    if (level == LEVEL_UNKNOWN)
        level = fdc_load_relaxed(&default_level);
    fdc_store_release(&current_level, level);
    if (wrong && !__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
        fdc_log(FDC_LOG_WARN, "FD_LOG=%.100s is not off, error, warn, info or debug, or "
                "one of them with :FILE; using %s", value, level_names[level]);
    errno = saved;
    return level;
}

void
fdc_log_default(enum fdc_level level, const char *who)
{
    fdc_store_relaxed(&default_level, (int)level);
    if (who)
        fdc_store_relaxed(&who_logs, who);
    level_from_environment();
}

void
fdc_log_to(int fd)
{
    if (fdc_load_relaxed(&log_fd) == STDERR_FILENO)
        fdc_store_relaxed(&log_fd, fd);
}

bool
fdc_log_on(enum fdc_level level)
{
    int current =
        fdc_load_acquire(&current_level); /* release in level_from_environment() */

    if (FDC_UNLIKELY(current == LEVEL_UNKNOWN))
        current = level_from_environment();
    return (int)level <= current && level != FDC_LOG_OFF;
}

void
fdc_log(enum fdc_level level, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    struct timespec now;
    int saved = errno, length, more;
    va_list args;

    if (!fdc_log_on(level))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    length = snprintf(line, sizeof(line),
                      "%lld.%06ld %.64s[%ld] %s: ", (long long)now.tv_sec,
                      now.tv_nsec / 1000, fdc_load_relaxed(&who_logs), (long)getpid(),
                      level_names[level]);
    va_start(args, format);
    more = vsnprintf(line + length, sizeof(line) - (size_t)length, format, args);
    va_end(args);
    if (more > 0)
        length += more;
    if ((size_t)length > sizeof(line) - 1)
        length = (int)sizeof(line) - 1;
    line[length++] = '\n'; /* over the NUL */
    if (write(fdc_load_relaxed(&log_fd), line, (size_t)length) < 0) {
        /* nobody to tell */
    }
    errno = saved;
}

void
fdc_log_printable(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (size_t i = 0; text[i] != '\0'; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 127)
            text[i] = '?';
}
