/* Read once, under pthread_once; a word that is none of ours is said, too. */
#include "common/unsafe.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"

static const char *const names[AP_UNSAFE_COUNT] = {"no_version_check", "no_key_versions", "no_tombstones", "no_positions", "no_offset_in_transaction", "no_token_wait", "no_barrier", "collect_early"};
static bool off[AP_UNSAFE_COUNT];

static void take(const char *word, size_t len)
{
    for (size_t i = 0; i < AP_UNSAFE_COUNT; i++)
        if (strlen(names[i]) == len && memcmp(names[i], word, len) == 0) {
            off[i] = true;
            ap_error("ANTIPODE_UNSAFE: %s: a protection is switched off; this is for tests, and data will be lost", names[i]);
            return;
        }
    ap_error("ANTIPODE_UNSAFE: \"%.*s\" is no protection", (int)(len < 64 ? len : 64), word);
}

static void read_environment(void)
{
    const char *text = getenv("ANTIPODE_UNSAFE");
    for (const char *p = text; p && *p;) {
        size_t len = strcspn(p, ",");
        if (len)
            take(p, len);
        p += len + (p[len] == ',');
    }
}

bool ap_unsafe(enum ap_unsafe what)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_environment);
    return off[what];
}
