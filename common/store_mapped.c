/* LMDB maps the file, and the kernel maps sixteen pages around each that is touched; so a process that has read a store here
 * and there counts as holding all of it, though most of it may never be read again. Given back, pages stay in the kernel's
 * cache, where they are the first to go when memory is short.
 *
 * How much is mapped is read from /proc/self/statm, which costs a microsecond; where the file lies from /proc/self/maps, which
 * is read only when pages are given back. What fails is no error: then more stays mapped. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "common/store_internal.h"

/* Pages of files that are mapped now; 0: nobody knows. */
static size_t mapped_pages(int statm_fd)
{
    char text[128];
    ssize_t n = pread(statm_fd, text, sizeof text - 1, 0);
    unsigned long pages = 0;
    text[n > 0 ? n : 0] = 0;
    return sscanf(text, "%*u %*u %lu", &pages) == 1 ? pages : 0;
}

static void give_back(const struct ap_store *s)
{
    char line[512];
    struct stat st;
    mdb_filehandle_t file;
    FILE *maps = mdb_env_get_fd(s->env, &file) == 0 && fstat(file, &st) == 0 ? fopen("/proc/self/maps", "re") : NULL;
    while (maps && fgets(line, sizeof line, maps)) {
        uint64_t from, to, inode;
        unsigned major, minor;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %x:%x %" SCNu64, &from, &to, &major, &minor, &inode) == 5 && inode == st.st_ino &&
            makedev(major, minor) == st.st_dev)
            madvise((void *)(uintptr_t)from, (size_t)(to - from), MADV_DONTNEED);
    }
    if (maps)
        fclose(maps);
}

void ap_store_unmap(struct ap_store *s)
{
    if (s->statm_fd < 0)
        return;
    size_t now = mapped_pages(s->statm_fd), base = atomic_load_explicit(&s->mapped_base, memory_order_relaxed);
    if (base == SIZE_MAX)
        return; /* another thread gives them back right now */
    if (now < base)
        atomic_store_explicit(&s->mapped_base, now, memory_order_relaxed); /* other files are mapped no more */
    if (now <= base || (now - base) * (size_t)sysconf(_SC_PAGESIZE) < s->mapped_bytes)
        return;
    /* One thread does it; the others go on. */
    if (atomic_compare_exchange_strong(&s->mapped_base, &base, SIZE_MAX)) {
        give_back(s);
        atomic_store(&s->mapped_base, mapped_pages(s->statm_fd));
    }
}
