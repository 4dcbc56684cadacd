/* Sources: the topics a consumer reads, and where it stands in each of their partitions.
 *
 * The list of sources is fixed at the start: of every region the mutation topics and the control topic, of the own one
 * also the raw vectors. A source that does not exist yet has no partitions; when the scout finds it, ap_source_found
 * gives it some, and ap_source_assign begins to read.
 * Invariant: everything before ap_part_resume() of an assigned partition is in the store or in the batch under way.
 * A partition on hold is not read at all; it is released at the very record that it was held at.
 * Owned by the apply thread, except where a function says otherwise. */
#ifndef ANTIPODE_CONSUMER_SOURCES_H
#define ANTIPODE_CONSUMER_SOURCES_H
#include "common/kafka.h"
#include "consumer/settings.h"

enum ap_source_kind { AP_SOURCE_CONTROL, AP_SOURCE_MUTATIONS, AP_SOURCE_RAW };
enum ap_hold { AP_HOLD_NONE, AP_HOLD_SCHEMA, AP_HOLD_RAW_FULL, AP_HOLD_CLOCK };

#define AP_LOCAL_TOPIC_MAX 80 /* "<region>.<topic>" and NUL */

struct ap_source;

/* A record, as it came or as it was held. Borrowed. */
struct ap_record {
    const void *key; size_t key_len;
    const void *value; size_t value_len;
    int64_t offset;
    const rd_kafka_message_t *message; /* NULL: it was held */
};
static inline struct ap_record ap_record_of(const rd_kafka_message_t *m)
{
    return (struct ap_record){m->key, m->key_len, m->payload, m->len, m->offset, m};
}

/* A raw vector that came before its mutation. The message is owned; NULL when it has been joined or dropped. */
struct ap_raw_waiting {
    rd_kafka_message_t *message;
    uint64_t stream, seq;
    const char *topic; /* of its mutation; lives as long as the settings */
    int64_t offset, since_ms;
};
/* In order of offset; a ring of cap entries (a power of two). See rawjoin.h. */
struct ap_raw_queue {
    struct ap_raw_waiting *ring;
    size_t cap, head, count;
    size_t bytes;
    int64_t patient_until_ms; /* nobody's time runs before this: the mutations were behind */
};

struct ap_part {
    struct ap_source *source;
    int32_t number;
    bool mine;     /* number mod workers = worker; control: always */
    bool assigned; /* librdkafka reads it, or it is on hold */
    bool touched;  /* its offset is to be written with this batch */
    bool at_end;   /* the broker had nothing more when it was last heard */
    bool caught_up; /* has reached target once */
    enum ap_hold hold;
    int64_t hold_since_ms;
    int64_t next;     /* next offset to read; -1: from the beginning, nothing read yet */
    int64_t target;   /* end of the partition when it was found */
    int64_t stored;   /* as in the store; -1: never */
    int64_t announced; /* as committed to Kafka; -1: never */
    uint64_t newest_clock; /* hlc of the newest record applied, of any stream; 0: none */

    /* What the registry last said about a stream of this partition (registry.h). */
    uint64_t memo_stream, memo_epoch;
    int memo_state;
    struct ap_raw_queue raw; /* of raw-vectors only */
};

struct ap_source {
    char name[AP_LOCAL_TOPIC_MAX]; /* as it is called here: "eu.vec-mutations" */
    const char *topic;             /* as it is called at its origin; points into name */
    struct ap_region origin;
    size_t origin_index;           /* of settings.all_regions */
    enum ap_source_kind kind;
    bool found, assigned, mismatch; /* mismatch: its partition count is not that of the others; not read */
    int64_t found_ms;               /* monotonic */
    uint8_t id[16];
    int32_t count;                  /* partitions; 0 while it does not exist */
    struct ap_part *parts;
    rd_kafka_topic_t *rkt;
};

struct ap_sources {
    const struct ap_consumer_settings *settings;
    rd_kafka_t *rk;
    struct ap_source *list;
    size_t count;
    struct ap_source *last; /* of the last message looked up */
};

/* What the scout found out about a source: its partitions (0: it is gone), id, and the offsets of its ends. */
struct ap_found {
    size_t index;
    int32_t partitions;
    uint8_t id[16];
    int64_t *begin, *end; /* one a partition */
};

/* Takes the raw queue's messages back (rawjoin.c). */
void ap_raw_queue_fini(struct ap_raw_queue *q);

/* settings and rk are borrowed. Aborts when out of memory (start-up). */
void ap_sources_init(struct ap_sources *s, const struct ap_consumer_settings *settings, rd_kafka_t *rk);
/* All of its messages must have been destroyed. */
void ap_sources_fini(struct ap_sources *s);

/* The partition a message came from, or NULL when it is none that is being read (on hold, not ours, not assigned). */
struct ap_part *ap_sources_part(struct ap_sources *s, const rd_kafka_message_t *message);
struct ap_source *ap_sources_find(struct ap_sources *s, enum ap_source_kind kind, const struct ap_region *origin, const char *topic);

/* A source was found, found again with another id or count, or lost: stops reading it and prepares its partitions.
 * Clocks of partitions that it had before are kept. */
int ap_source_found(struct ap_sources *s, const struct ap_found *found, struct ap_err *err);
/* Begin to read every partition of ours, each at part->next (-1: the beginning). */
int ap_source_assign(struct ap_sources *s, struct ap_source *source, struct ap_err *err);
void ap_source_unassign(struct ap_sources *s, struct ap_source *source);

/* Stop reading at offset, which is read again after the release; later records that are at hand are to be ignored
 * (ap_sources_part does). */
int ap_part_hold(struct ap_sources *s, struct ap_part *part, int64_t offset, enum ap_hold why, struct ap_err *err);
int ap_part_release(struct ap_sources *s, struct ap_part *part, struct ap_err *err);
/* Read again from the beginning: the offset we stood at is gone. */
int ap_part_rewind(struct ap_sources *s, struct ap_part *part, struct ap_err *err);
/* Where to go on from after a restart: before the first raw vector that still waits, else part->next. */
int64_t ap_part_resume(const struct ap_part *part);
void ap_part_advance(struct ap_part *part, int64_t next);

const char *ap_hold_name(enum ap_hold hold); /* "schema", "raw_full", "clock", "" */

#endif
