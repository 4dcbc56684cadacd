/* Runs a fuzz target without libFuzzer, so that every build, GCC's too, feeds the decoders what nobody would send.
 *
 *   fuzz_x [iterations] [seed] [corpus file...]
 *
 * Inputs are grown from the corpus files (and from nothing): bits flipped, bytes replaced by extreme ones, pieces cut,
 * doubled and put elsewhere. Nothing is learnt from coverage; for that, build the preset "fuzz" (clang's libFuzzer). */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUT = 1 << 16, MAX_SEEDS = 256 };
struct input { uint8_t *data; size_t len; };

static uint64_t state;

static uint64_t rnd(void) /* splitmix64 */
{
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(size_t n)
{
    return n ? (size_t)(rnd() % n) : 0;
}

static struct input read_input(const char *path)
{
    struct input in = { malloc(MAX_INPUT), 0 };
    FILE *f = fopen(path, "rb");
    if (!f || !in.data) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(2);
    }
    in.len = fread(in.data, 1, MAX_INPUT, f);
    fclose(f);
    return in;
}

static void mutate(uint8_t *data, size_t *len)
{
    static const uint8_t extremes[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', ',', '\n', '-', '.' };
    size_t at = below(*len), n = below(*len - at) % 64;
    switch (rnd() % 6) {
    case 0:
        if (*len)
            data[at] ^= (uint8_t)(1u << (rnd() & 7));
        break;
    case 1:
        if (*len)
            data[at] = extremes[below(sizeof extremes)];
        break;
    case 2: /* cut the end */
        *len = at;
        break;
    case 3: /* take a piece out */
        memmove(data + at, data + at + n, *len - at - n);
        *len -= n;
        break;
    case 4: /* double a piece */
        if (*len + n <= MAX_INPUT) {
            memmove(data + at + n, data + at, *len - at);
            *len += n;
        }
        break;
    default: /* a few random bytes at the end */
        for (size_t i = 0; i < 8 && *len < MAX_INPUT; i++)
            data[(*len)++] = (uint8_t)rnd();
    }
}

int main(int argc, char **argv)
{
    long iterations = argc > 1 ? atol(argv[1]) : 20000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)ap_wall_us();
    printf("iterations=%ld seed=%" PRIu64 "\n", iterations, state);
    struct input seeds[MAX_SEEDS] = { { malloc(1), 0 } };
    size_t count = 1;
    for (int i = 3; i < argc && count < MAX_SEEDS; i++)
        seeds[count++] = read_input(argv[i]);
    uint8_t *work = malloc(MAX_INPUT);
    for (long i = 0; i < iterations; i++) {
        const struct input *from = &seeds[below(count)];
        size_t len = from->len;
        memcpy(work, from->data, len);
        for (size_t n = i < (long)count ? 0 : 1 + below(12); n > 0; n--)
            mutate(work, &len);
        uint8_t *exact = malloc(len ? len : 1); /* of its very size: reading past its end is seen */
        memcpy(exact, work, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    for (size_t i = 0; i < count; i++)
        free(seeds[i].data);
    free(work);
    return 0;
}
