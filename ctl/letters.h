/* The dead letters of a region: all of dlq-mutations as it stands, and what has become of each.
 *
 * A letter that was redriven is settled by a record of its own in the same topic: no key, no value, header "settles" with the
 * letter's "partition:offset". So the topic says which letters are open, to this tool and to any other. */
#ifndef ANTIPODE_CTL_LETTERS_H
#define ANTIPODE_CTL_LETTERS_H
#include "common/kafka.h"
#include "common/schema.h"
#include "ctl/fetch.h"

struct ap_letter { rd_kafka_message_t *message; bool settled; };

struct ap_letters {
    rd_kafka_t *rk;
    struct ap_config_extra extra;   /* borrowed */
    struct ap_letter *list; size_t count; /* by partition, offset */
};

/* Reads the topic to its end of now. extra: bootstrap.servers and what else the client needs; borrowed. */
int ap_letters_read(struct ap_letters *l, const struct ap_config_extra *extra, struct ap_err *err);
void ap_letters_free(struct ap_letters *l);
struct ap_letter *ap_letters_find(struct ap_letters *l, int32_t partition, int64_t offset); /* NULL: no such letter */
/* Text of a header in out, "" when there is none. */
void ap_letter_header(const struct ap_letter *letter, const char *name, char *out, size_t cap);

/* What a redrive would publish: the letter's mutation as a row of its own (appended to row, behind its length), and its
 * collection. Refuses (AP_EUNSUPPORTED, AP_ECORRUPT, AP_EINVAL) what cannot be published, and says why. */
int ap_letter_row(const struct ap_letter *letter, const struct ap_schemas *schemas, struct ap_buf *row, uint64_t *collection, struct ap_err *err);
/* Says in the topic that the letter is settled. */
int ap_letter_settle(struct ap_letters *l, struct ap_letter *letter, struct ap_err *err);

#endif
