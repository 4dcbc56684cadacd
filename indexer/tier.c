/* madvise, and where that is older than the kernel's newest advice, touching. Advice that fails changes nothing but speed. */
#include "indexer/tier.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#define PAGE 4096u
#define WINDOWS 256        /* of a mapping, that are looked at */
#define WINDOW_PAGES 256

bool ap_tier_is_named(const char *names, const char *collection)
{
    size_t wanted = strlen(collection);
    for (const char *p = names ? names : ""; *p; p += *p == ',') {
        p += strspn(p, " \t");
        size_t len = strcspn(p, ","), n = len;
        while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
            n--;
        if ((n == 1 && *p == '*') || (n == wanted && memcmp(p, collection, n) == 0))
            return true;
        p += len;
    }
    return false;
}

static void touch(const struct ap_segment *s)
{
    volatile uint8_t sum = 0;
    if (madvise(s->map, s->map_bytes, MADV_POPULATE_READ) == 0 || errno != EINVAL)
        return;
    for (size_t at = 0; at < s->map_bytes; at += PAGE)
        sum = (uint8_t)(sum + ((const uint8_t *)s->map)[at]);
}

/* Pages that are mapped are kept: unmap, then give back. */
static void give_back(struct ap_segment *s, int dir_fd)
{
    int fd = openat(dir_fd, s->path, O_RDONLY | O_CLOEXEC);
    madvise(s->map, s->map_bytes, MADV_DONTNEED);
    if (fd < 0)
        return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

void ap_tier_set(struct ap_segment *s, bool cold, int dir_fd)
{
    if (s->kind != AP_SEGMENT_IVF8 || !s->path)
        return; /* FAISS's structures, and what could not be written, are memory of our own */
    s->cold = cold;
    madvise(s->map, s->map_bytes, cold ? MADV_RANDOM : MADV_NORMAL);
    if (cold)
        give_back(s, dir_fd);
    else
        touch(s);
}

size_t ap_tier_resident(const struct ap_segment *s)
{
    unsigned char in[WINDOW_PAGES];
    if (s->kind != AP_SEGMENT_IVF8)
        return ap_segment_bytes(s);
    size_t pages = (s->map_bytes + PAGE - 1) / PAGE, step = pages / WINDOWS > WINDOW_PAGES ? pages / WINDOWS : WINDOW_PAGES, seen = 0, there = 0;
    for (size_t at = 0; at < pages; at += step) {
        size_t n = pages - at < WINDOW_PAGES ? pages - at : WINDOW_PAGES;
        if (mincore((uint8_t *)s->map + at * PAGE, n * PAGE, in) != 0)
            break;
        for (size_t i = 0; i < n; i++)
            there += in[i] & 1;
        seen += n;
    }
    return seen ? (size_t)((double)there / (double)seen * (double)s->map_bytes) : 0;
}

static void ask(const void *from, size_t bytes)
{
    uint8_t *first = (uint8_t *)(uintptr_t)from - (uintptr_t)from % PAGE;
    if (bytes > 0)
        madvise(first, (size_t)((const uint8_t *)from + bytes - first), MADV_WILLNEED);
}

void ap_tier_ask(const struct ap_segment *s, const uint32_t *lists, uint32_t n)
{
    const struct ap_ivf8 *v = &s->lists;
    size_t stride = v->small ? 0 : ap_q8_stride(s->dim);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = v->starts[lists[i]], count = v->starts[lists[i] + 1] - first;
        ask(v->rows + first * stride, count * stride);
        ask(v->row_meta + first, count * sizeof *v->row_meta);
        if (v->bits) {
            ask(v->bits + first * ap_sketch_words(s->dim), count * ap_sketch_words(s->dim) * sizeof *v->bits);
            ask(v->factors + (v->small ? 0 : first), v->small ? 0 : count * sizeof *v->factors);
        }
    }
}
