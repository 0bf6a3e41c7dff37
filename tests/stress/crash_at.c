/* Preloaded into a daemon: kills it by SIGKILL at the n-th call that changes a file or speaks to a peer.
 *
 * RTD_CRASH_AT=n     counted from 0 at the start of the process; without it nothing happens
 * RTD_CRASH_PART=k   0..8: so many eighths of the last write reach the file; a message is sent first when k > 4
 * RTD_CRASH_TOTAL=f  at an orderly end the number of calls is written to this file
 *
 * Children of the process are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;
static long deadline = -1;
static size_t part;
static char total[512];

__attribute__((constructor)) static void begin(void)
{
    const char *at = getenv("RTD_CRASH_AT"), *k = getenv("RTD_CRASH_PART"), *file = getenv("RTD_CRASH_TOTAL");
    if (at != NULL)
        deadline = atol(at);
    if (k != NULL)
        part = (size_t)atol(k);
    if (file != NULL)
        snprintf(total, sizeof total, "%s", file);
    unsetenv("LD_PRELOAD");
}

__attribute__((destructor)) static void end(void)
{
    FILE *file = total[0] != '\0' ? fopen(total, "w") : NULL;
    if (file != NULL) {
        fprintf(file, "%ld\n", atomic_load(&calls));
        fclose(file);
    }
}

static int is_last(void) { return atomic_fetch_add(&calls, 1) == deadline; }

static void die(void)
{
    kill(getpid(), SIGKILL);
    pause();
}

#define REAL(type, name, ...)                                  \
    static type (*real)(__VA_ARGS__);                          \
    if (real == NULL)                                          \
        *(void **)&real = dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size)
{
    struct stat facts;
    REAL(ssize_t, "write", int, const void *, size_t);
    if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode) && is_last()) {
        if (real(fd, data, size * part / 8) >= 0)
            die();
        die();
    }
    return real(fd, data, size);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(ssize_t, "send", int, const void *, size_t, int);
    if (is_last()) {
        if (part > 4 && real(fd, data, size, flags) >= 0)
            die();
        die();
    }
    return real(fd, data, size, flags);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    if (is_last()) {
        if (part > 4 && real(from, to) == 0)
            die();
        die();
    }
    return real(from, to);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    if (is_last())
        die();
    return real(fd);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    if (is_last())
        die();
    return real(path);
}
