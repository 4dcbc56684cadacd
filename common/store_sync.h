/* Sync points of the store: store_sync.c says what and why. For the files of the store; called by the writer's thread. */
#ifndef ANTIPODE_COMMON_STORE_SYNC_H
#define ANTIPODE_COMMON_STORE_SYNC_H
#include <lmdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "common/boot.h"
#include "common/err.h"

struct ap_store;

struct ap_sync {
    pthread_mutex_t lock;        /* guards what follows, to `last_ns` */
    pthread_cond_t wake;
    bool dirty, stop;
    uint64_t since, captured;    /* least clock of the records committed since the last point began; in that point while it is made */
    int failed;
    struct ap_err err;           /* why, when failed */
    uint64_t points;
    int64_t last_ns;             /* what the last one took */
    /* The thread's own, and of whoever starts and stops it. */
    pthread_t thread;
    bool runs;
    int fd;
    uint64_t count;
    MDB_txn *pinned;
};

void ap_sync_init(struct ap_store *s);
void ap_sync_fini(struct ap_store *s);

/* A writer, before it opens the environment. 1: the file was taken back to its last sync point; then, when the store has its
 * new id, ap_sync_recovered(). *lock: to be closed afterwards; -1: there is none. */
int ap_sync_recover(struct ap_store *s, int *lock, struct ap_err *err);
int ap_sync_recovered(struct ap_store *s, int lock, struct ap_err *err);
/* A reader: AP_ENOTREADY while a writer still has to do that. */
int ap_sync_check_reader(const struct ap_store *s, struct ap_err *err);

/* Under writer.lock, before the first commit. With sync_ms of 0 every commit goes on waiting for the disk. */
int ap_sync_start(struct ap_store *s, struct ap_err *err);
void ap_sync_stop(struct ap_store *s); /* everything is on the disk when it returns, unless the disk failed */
/* After each commit: the least clock of its records. An error is that of an earlier sync, and as fatal. */
int ap_sync_committed(struct ap_store *s, uint64_t clock, struct ap_err *err);
/* The least clock of the records that a crash of the machine might take back; AP_HLC_MAX: none. */
uint64_t ap_sync_unsynced(struct ap_store *s);

#endif
