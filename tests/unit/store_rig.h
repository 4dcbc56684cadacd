/* A store in a folder of its own, its writer, and ways to fill it and to look at all of it. One at a time, in globals: Check
 * runs each test in a process of its own. Every call asserts that it works. */
#ifndef ANTIPODE_TESTS_STORE_RIG_H
#define ANTIPODE_TESTS_STORE_RIG_H
#include <check.h>
#include "common/store.h"

#define COLLECTION 7
#define ST_MAP_BYTES ((size_t)256 << 20)

#define OK(call) \
    do { \
        int ok_ = (call); \
        ck_assert_msg(ok_ == 0, "%s: %d: %s", #call, ok_, st_err.msg); \
    } while (0)

extern char st_root[64], st_path[128]; /* a temporary folder, and the store's in it */
extern struct ap_store *st_store;
extern struct ap_writer *st_writer;
extern struct ap_err st_err;
extern uint64_t st_hlc; /* of the newest change; st_put takes the next */

struct st_found { struct ap_key key; uint64_t slot, checksum; char vector[24]; bool live; };
struct st_content { struct st_found *list; size_t count, cap; uint64_t last_slot; };

/* ---- its life ---- */
struct ap_store_options st_options(bool read_only);
void st_open(void);
void st_close(void);
void st_make_folder(void);
void st_remove_folder(void);
void st_setup(void);
void st_teardown(void);
/* ---- what is written ---- */
struct ap_key st_key(uint64_t collection, uint64_t n);
struct ap_mutation st_mutation(enum ap_op op, uint64_t at, const char *vector, const char *payload);
bool st_apply(uint64_t collection, uint64_t n, struct ap_mutation m);
bool st_put(uint64_t n, const char *vector); /* an upsert of point n of COLLECTION */
void st_begin(void);
void st_commit(void);
/* A round of the cleaner in a batch of its own; returns how many slots are gone. */
size_t st_clean(size_t max_rows, uint64_t seen);

/* ---- what is there ---- */
struct ap_snapshot *st_snapshot(void);
/* The newest row of each key, by a scan of the log; the caller frees list. */
struct st_content st_content_of(const struct ap_snapshot *s);
const struct st_found *st_find(const struct st_content *c, uint64_t n);
void st_check_digests(const struct ap_snapshot *s, const struct st_content *c, uint64_t collection);
void st_check_all(void); /* digests and counts equal what the rows give */
void st_expect(uint64_t n, const char *vector); /* live with this vector; NULL: not live */
uint64_t st_slot_of(uint64_t n);
void st_expect_raw(uint64_t n, const char *raw);
uint64_t st_last_slot(void);

#endif
