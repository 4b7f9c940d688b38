/*
 * Makes every flush of a file take longer, as on a disk with a cache that it must empty.
 *
 * Loaded into the server with LD_PRELOAD. On Linux Postgres flushes its log with fdatasync,
 * and other files with fsync. SLOW_FLUSH_US says by how many microseconds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int flush_function(int);

static int slowly(const char *name, int file)
{
    const char *us = getenv("SLOW_FLUSH_US");
    long delay = us ? atol(us) : 0;
    struct timespec pause = { delay / 1000000, delay % 1000000 * 1000 };
    flush_function *flush = (flush_function *) dlsym(RTLD_NEXT, name);

    nanosleep(&pause, NULL);
    return flush(file);
}

int fsync(int file)
{
    return slowly("fsync", file);
}

int fdatasync(int file)
{
    return slowly("fdatasync", file);
}
