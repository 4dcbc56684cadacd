/* Drives a fuzz target without libFuzzer: each file of the corpus folder as it is, then random mutations of them until
 * the time is over (ANTIPODE_FUZZ_SECONDS, 1 by default).
 *
 *     fuzz_x [FOLDER]        ANTIPODE_FUZZ_SEED=n repeats a run
 *
 * It finds what is shallow; the fuzz preset, with coverage to guide it, finds what is deep. On a crash the input is in
 * fuzz-crash.bin in the working folder. */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define MAX_SEEDS 256
#define MAX_BYTES 16384

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct input {
    uint8_t data[MAX_BYTES];
    size_t size;
} seeds[MAX_SEEDS], now;
static size_t seed_count;
static uint64_t state;

static uint64_t next(void) { /* splitmix64, Steele et al. 2014 */
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t below(size_t n) {
    return n ? (size_t)(next() % n) : 0;
}

static void on_crash(int number) {
    int fd = open("fuzz-crash.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, now.data, now.size) < 0) _exit(2);
    signal(number, SIG_DFL);
    raise(number);
}

/* A heap copy of the very size, so that the sanitizer sees a read past its end. */
static void run_one(void) {
    uint8_t *copy = malloc(now.size ? now.size : 1);
    if (!copy) abort();
    memcpy(copy, now.data, now.size);
    LLVMFuzzerTestOneInput(copy, now.size);
    free(copy);
}

static void load(const char *folder) {
    DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *e; dir && seed_count < MAX_SEEDS && (e = readdir(dir));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!f) continue;
        seeds[seed_count].size = fread(seeds[seed_count].data, 1, MAX_BYTES, f);
        fclose(f);
        seed_count++;
    }
    if (dir) closedir(dir);
    if (!seed_count) seed_count = 1; /* the empty input */
}

static void mutate_once(void) {
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '}', '[', ',', ':', '\n', '-'};
    size_t at = below(now.size), n;
    switch (below(7)) {
    case 0: /* flip a bit */
        if (now.size) now.data[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        if (now.size) now.data[at] = edges[below(sizeof edges)];
        break;
    case 2:
        if (now.size) now.data[at] = (uint8_t)next();
        break;
    case 3: /* cut off */
        now.size = below(now.size + 1);
        break;
    case 4: /* take out */
        n = below(now.size - at + 1) / 2;
        memmove(now.data + at, now.data + at + n, now.size - at - n);
        now.size -= n;
        break;
    case 5: /* repeat */
        n = below(now.size - at + 1);
        if (now.size + n <= MAX_BYTES) {
            memmove(now.data + at + n, now.data + at, now.size - at);
            now.size += n;
        }
        break;
    default: { /* insert from another seed */
        const struct input *other = &seeds[below(seed_count)];
        size_t from = below(other->size);
        n = below(other->size - from + 1);
        if (now.size + n <= MAX_BYTES) {
            memmove(now.data + at + n, now.data + at, now.size - at);
            memcpy(now.data + at, other->data + from, n);
            now.size += n;
        }
    }
    }
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    const char *seed = getenv("ANTIPODE_FUZZ_SEED"), *limit = getenv("ANTIPODE_FUZZ_SECONDS");
    double end = seconds() + (limit ? atof(limit) : 1.0);
    uint64_t runs = 0;
    load(argc > 1 ? argv[1] : NULL);
    state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    printf("seed %" PRIu64 ", %zu inputs\n", state, seed_count);
    fflush(stdout);
    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    for (size_t i = 0; i < seed_count; i++) {
        now = seeds[i];
        run_one();
    }
    for (; seconds() < end; runs++) {
        now = seeds[below(seed_count)];
        for (size_t i = 1 + below(8); i; i--) mutate_once();
        run_one();
    }
    printf("%" PRIu64 " mutations\n", runs);
    return 0;
}
