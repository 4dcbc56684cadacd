/* What the C benchmarks share: reading .npy files, percentiles, a keep-alive HTTP client. Errors end the program with a
 * message: a benchmark that cannot measure must not print a figure. */
#ifndef ANTIPODE_BENCH_BENCH_H
#define ANTIPODE_BENCH_BENCH_H
#include <curl/curl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "common/timeutil.h"

#define BENCH_UNUSED __attribute__((unused))

static void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void bench_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

/* --- .npy: 2-D, C order, float32 or float16 --- */
struct bench_matrix { float *data; size_t rows, dim; };

static float bench_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, exp = (h >> 10) & 31, man = h & 1023, bits;
    if (exp == 0) {
        float v = (float)man * 0x1p-24f;
        return sign ? -v : v;
    }
    bits = exp == 31 ? sign | 0x7f800000u | (man << 13) : sign | ((exp + 112) << 23) | (man << 13);
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

BENCH_UNUSED static struct bench_matrix bench_load_npy(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t head[10];
    if (!f || fread(head, 1, 10, f) != 10 || memcmp(head, "\x93NUMPY\x01", 7) != 0)
        bench_die("%s: not a readable .npy file of format 1", path);
    size_t header_len = ap_le16(head + 8);
    char *text = calloc(1, header_len + 1);
    if (!text || fread(text, 1, header_len, f) != header_len)
        bench_die("%s: the header is cut short", path);
    bool half = strstr(text, "'<f2'") != NULL;
    const char *shape = strstr(text, "'shape': (");
    struct bench_matrix m = {0};
    if ((!half && !strstr(text, "'<f4'")) || !shape || sscanf(shape, "'shape': (%zu, %zu)", &m.rows, &m.dim) != 2)
        bench_die("%s: wants a 2-D array of <f2 or <f4, found %s", path, text);
    free(text);
    size_t n = m.rows * m.dim;
    m.data = malloc(n * sizeof *m.data);
    uint16_t *tmp = half ? malloc(n * 2) : NULL;
    if (!m.data || (half && !tmp) || fread(half ? (void *)tmp : (void *)m.data, half ? 2 : 4, n, f) != n)
        bench_die("%s: fewer rows than its header says", path);
    for (size_t i = 0; half && i < n; i++)
        m.data[i] = bench_half(tmp[i]);
    free(tmp);
    fclose(f);
    return m;
}

/* --- percentiles --- */
static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts. */
BENCH_UNUSED static double bench_percentile(double *values, size_t n, double p)
{
    if (n == 0)
        return -1;
    qsort(values, n, sizeof *values, bench_compare);
    size_t i = (size_t)(p * (double)(n - 1) + 0.5);
    return values[i];
}

/* --- HTTP --- */
struct bench_http { CURL *curl; struct curl_slist *headers; struct ap_buf answer; };

static size_t bench_collect(char *data, size_t size, size_t n, void *arg)
{
    ap_buf_append(arg, data, size * n);
    return size * n;
}

BENCH_UNUSED static void bench_http_init(struct bench_http *h)
{
    memset(h, 0, sizeof *h);
    h->curl = curl_easy_init();
    h->headers = curl_slist_append(NULL, "Content-Type: application/json");
    h->headers = curl_slist_append(h->headers, "Expect:");
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, h->headers);
    curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, bench_collect);
    curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, &h->answer);
    curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h->curl, CURLOPT_TIMEOUT, 60L);
}

BENCH_UNUSED static void bench_http_fini(struct bench_http *h)
{
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->headers);
    ap_buf_free(&h->answer);
}

/* Sends body (borrowed) and returns the status; the answer is in h->answer, NUL-terminated. */
BENCH_UNUSED static long bench_http_send(struct bench_http *h, const char *method, const char *url, const void *body, size_t len)
{
    ap_buf_clear(&h->answer);
    curl_easy_setopt(h->curl, CURLOPT_URL, url);
    curl_easy_setopt(h->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
    curl_easy_setopt(h->curl, CURLOPT_POSTFIELDS, (const char *)body);
    CURLcode rc = curl_easy_perform(h->curl);
    if (rc != CURLE_OK)
        bench_die("%s %s: %s", method, url, curl_easy_strerror(rc));
    ap_buf_append(&h->answer, "", 1);
    long status = 0;
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

BENCH_UNUSED static long bench_http_get(struct bench_http *h, const char *url)
{
    ap_buf_clear(&h->answer);
    curl_easy_setopt(h->curl, CURLOPT_URL, url);
    curl_easy_setopt(h->curl, CURLOPT_HTTPGET, 1L);
    CURLcode rc = curl_easy_perform(h->curl);
    if (rc != CURLE_OK)
        bench_die("GET %s: %s", url, curl_easy_strerror(rc));
    ap_buf_append(&h->answer, "", 1);
    long status = 0;
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

BENCH_UNUSED static void bench_json_floats(struct ap_buf *out, const float *v, size_t dim)
{
    ap_buf_append(out, "[", 1);
    for (size_t i = 0; i < dim; i++)
        ap_buf_printf(out, i ? ",%.8g" : "%.8g", (double)v[i]);
    ap_buf_append(out, "]", 1);
}

BENCH_UNUSED static void bench_uuid(uint64_t *state, char out[37])
{
    uint64_t x[2];
    for (int i = 0; i < 2; i++) { /* splitmix64 */
        uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        x[i] = z ^ (z >> 31);
    }
    snprintf(out, 37, "%08x-%04x-4%03x-8%03x-%012llx", (unsigned)(x[0] >> 32), (unsigned)(x[0] >> 16) & 0xffff,
             (unsigned)x[0] & 0xfff, (unsigned)(x[1] >> 48) & 0xfff, (unsigned long long)(x[1] & 0xffffffffffffULL));
}

#endif
