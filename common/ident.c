/* Identities: parsing and printing of ids, hashes of names and keys. Pure functions; only parsing can fail, with
 * AP_EINVAL and a message that names the offending text (shortened). */
#include "common/ident.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>
#include "common/bytes.h"

#define SHOWN 64 /* as much of a bad id as an error shows */

int ap_region_parse(const char *text, size_t len, struct ap_region *out, struct ap_err *err)
{
    bool good = len >= 1 && len <= 15 && text[0] >= 'a' && text[0] <= 'z';
    for (size_t i = 1; good && i < len; i++)
        good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') || text[i] == '-';
    if (!good)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "region name '%.*s' is not [a-z][a-z0-9-]{0,14}",
                          (int)(len < SHOWN ? len : SHOWN), text);
    memset(out->name, 0, sizeof out->name);
    memcpy(out->name, text, len);
    return 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* 32 hex digits, or 36 characters with hyphens where RFC 9562 has them. */
static bool parse_uuid(const char *text, size_t len, struct ap_point_id *out)
{
    if (len != 32 && len != 36)
        return false;
    struct ap_point_id id;
    size_t at = 0;
    for (size_t i = 0; i < 16; i++) {
        if (len == 36 && (i == 4 || i == 6 || i == 8 || i == 10) && text[at++] != '-')
            return false;
        int high = hex_value(text[at]), low = hex_value(text[at + 1]);
        if (high < 0 || low < 0)
            return false;
        id.b[i] = (uint8_t)(high << 4 | low);
        at += 2;
    }
    *out = id;
    return true;
}

static bool parse_u64(const char *text, size_t len, uint64_t *out)
{
    if (len < 1 || len > 20)
        return false;
    uint64_t number = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        if (__builtin_mul_overflow(number, (uint64_t)10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(text[i] - '0'), &number))
            return false;
    }
    *out = number;
    return true;
}

int ap_point_id_parse(const char *text, size_t len, struct ap_point_id *out, struct ap_err *err)
{
    uint64_t number;
    if (parse_uuid(text, len, out))
        return 0;
    if (parse_u64(text, len, &number)) {
        ap_point_id_from_u64(number, out);
        return 0;
    }
    return ap_err_set(err, AP_EINVAL, AP_POISON, "point id '%.*s' is neither a UUID nor an unsigned 64-bit integer",
                      (int)(len < SHOWN ? len : SHOWN), text);
}

int ap_point_id_from_json(const json_t *value, struct ap_point_id *out, struct ap_err *err)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        ap_point_id_from_u64((uint64_t)json_integer_value(value), out);
        return 0;
    }
    if (json_is_string(value)) {
        size_t len = json_string_length(value);
        const char *text = json_string_value(value);
        if (parse_uuid(text, len, out))
            return 0;
        return ap_err_set(err, AP_EINVAL, AP_POISON, "point id \"%.*s\" is not a UUID (numbers are given without quotes)",
                          (int)(len < SHOWN ? len : SHOWN), text);
    }
    return ap_err_set(err, AP_EINVAL, AP_POISON, "a point id must be a UUID string or an unsigned integer");
}

void ap_point_id_from_u64(uint64_t number, struct ap_point_id *out)
{
    memset(out->b, 0, 8);
    ap_put_be64(out->b + 8, number);
}

static void print_uuid(const struct ap_point_id *id, char out[AP_POINT_ID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = digits[id->b[i] >> 4];
        *out++ = digits[id->b[i] & 15];
    }
    *out = '\0';
}

void ap_point_id_print(const struct ap_point_id *id, char out[AP_POINT_ID_TEXT])
{
    if (ap_be64(id->b) == 0)
        snprintf(out, AP_POINT_ID_TEXT, "%" PRIu64, ap_be64(id->b + 8));
    else
        print_uuid(id, out);
}

json_t *ap_point_id_to_json(const struct ap_point_id *id)
{
    uint64_t number = ap_be64(id->b + 8);
    if (ap_be64(id->b) == 0 && number <= INT64_MAX)
        return json_integer((json_int_t)number);
    /* Also for integers above 2^63: jansson has no unsigned numbers, and as a UUID they read back as the same id. */
    char text[AP_POINT_ID_TEXT];
    print_uuid(id, text);
    return json_string(text);
}

static EVP_MD *sha1;
static pthread_once_t sha1_once = PTHREAD_ONCE_INIT;

static void free_sha1(void)
{
    EVP_MD_free(sha1);
}

/* Fetched once: OpenSSL 3 otherwise looks the algorithm up, under a lock, for every digest. */
static void fetch_sha1(void)
{
    sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
    if (!sha1)
        abort();
    atexit(free_sha1);
}

void ap_point_id_from_vector(uint64_t collection, const float *vector, size_t dim, struct ap_point_id *out)
{
    uint8_t name_space[16], digest[EVP_MAX_MD_SIZE];
    memcpy(name_space, "antipode", 8);
    ap_put_be64(name_space + 8, collection);
    pthread_once(&sha1_once, fetch_sha1);

    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int good = ctx && EVP_DigestInit_ex2(ctx, sha1, NULL) && EVP_DigestUpdate(ctx, name_space, sizeof name_space);
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
        good = good && EVP_DigestUpdate(ctx, vector, dim * sizeof *vector);
    } else {
        for (size_t i = 0; i < dim && good; i++) {
            uint32_t bits;
            uint8_t bytes[4];
            memcpy(&bits, vector + i, 4);
            ap_put_le32(bytes, bits);
            good = EVP_DigestUpdate(ctx, bytes, 4);
        }
    }
    if (!good || !EVP_DigestFinal_ex(ctx, digest, NULL))
        abort(); /* only when memory is out */
    EVP_MD_CTX_free(ctx);

    memcpy(out->b, digest, 16);
    out->b[6] = (uint8_t)((out->b[6] & 0x0f) | 0x50);
    out->b[8] = (uint8_t)((out->b[8] & 0x3f) | 0x80);
}

int ap_collection_name_check(const char *name, struct ap_err *err)
{
    size_t len = strlen(name);
    bool good = len >= 1 && len <= 255 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    for (size_t i = 0; good && i < len; i++) {
        char c = name[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
    }
    if (!good)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "collection name '%.*s' is not 1 to 255 of [A-Za-z0-9_.-]", SHOWN, name);
    return 0;
}

uint64_t ap_collection_id(const char *name, uint64_t generation)
{
    uint8_t bytes[255 + 1 + 8];
    size_t len = strlen(name);
    assert(len <= 255);
    memcpy(bytes, name, len + 1);
    ap_put_le64(bytes + len + 1, generation);
    return XXH3_64bits(bytes, len + 1 + 8);
}

void ap_key_make(uint64_t collection, const struct ap_point_id *id, struct ap_key *out)
{
    ap_put_be64(out->b, collection);
    memcpy(out->b + 8, id->b, 16);
}

uint64_t ap_key_collection(const struct ap_key *key)
{
    return ap_be64(key->b);
}

struct ap_point_id ap_key_point(const struct ap_key *key)
{
    struct ap_point_id id;
    memcpy(id.b, key->b + 8, 16);
    return id;
}

/* org.apache.kafka.common.utils.Utils.murmur2: Appleby's MurmurHash2, 32 bits, with Kafka's seed. */
uint32_t ap_murmur2(const void *bytes, size_t len)
{
    const uint32_t m = 0x5bd1e995;
    const uint8_t *p = bytes;
    uint32_t h = 0x9747b28cU ^ (uint32_t)len;

    for (; len >= 4; p += 4, len -= 4) {
        uint32_t k = ap_le32(p);
        k *= m;
        k ^= k >> 24;
        k *= m;
        h *= m;
        h ^= k;
    }
    if (len == 3)
        h ^= (uint32_t)p[2] << 16;
    if (len >= 2)
        h ^= (uint32_t)p[1] << 8;
    if (len >= 1) {
        h ^= p[0];
        h *= m;
    }
    h ^= h >> 13;
    h *= m;
    h ^= h >> 15;
    return h;
}

int32_t ap_key_partition(const struct ap_key *key, int32_t partitions)
{
    assert(partitions > 0);
    return (int32_t)(ap_murmur2(key->b, sizeof key->b) & 0x7fffffff) % partitions;
}

uint64_t ap_incarnation_new(int64_t wall_ms)
{
    uint32_t random;
    for (size_t got = 0; got < sizeof random;) {
        ssize_t n = getrandom((uint8_t *)&random + got, sizeof random - got, 0);
        if (n < 0 && errno != EINTR)
            abort(); /* the kernel has no random numbers: nothing that follows would be unique */
        if (n > 0)
            got += (size_t)n;
    }
    /* 42 bits of ms last until 2109; as a signed long, the way Avro carries it, it is negative from 2039 on. */
    uint64_t incarnation = (uint64_t)wall_ms << 22 | (random & 0x3fffff);
    return incarnation ? incarnation : 1;
}
