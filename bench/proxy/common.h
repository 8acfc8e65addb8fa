/* What the mock workers and the load generator share. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

enum { STAMP_DIGITS = 19 };
#define STAMP_MARK "chatcmpl-" /* an event's id: this, then the time it was sent */

static inline long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

/* Return `old` with room for `wanted` items of `size` bytes; `cap` counts items. */
static inline void *grown(void *old, size_t *cap, size_t wanted, size_t size) {
    if (wanted <= *cap)
        return old;
    while (*cap < wanted)
        *cap = *cap ? *cap * 2 : 1024;
    void *bigger = realloc(old, *cap * size);
    if (!bigger)
        die("realloc");
    return bigger;
}

static inline void watch(int epoll_fd, int fd, void *owner, unsigned events, int op) {
    struct epoll_event wanted = {.events = events, .data.ptr = owner};
    if (epoll_ctl(epoll_fd, op, fd, &wanted))
        die("epoll_ctl");
}
