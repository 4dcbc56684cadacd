/* Positions that are visible, as records of vec-watermarks (schemas/Watermark.*.avsc) and as tokens.
 *
 * A position is (stream, topic, partition) -> contiguous mark, and the clock (hlc) of the newest record at or below it.
 * Watermark record: key "watermark/<region>", value: region, sent_ms (our clock), and a list of positions; finished
 * incarnations appear as floors: (lineage, topic, partition) -> (incarnation, mark).
 * Token (what a write was given): text "ap1." + base64url of region, stream, lineage, hlc and a list of (topic, partition, seq),
 * with a checksum; at most 4 KiB. Topic is always the origin's name, without a mirror prefix. */
#ifndef ANTIPODE_COMMON_WATERMARK_H
#define ANTIPODE_COMMON_WATERMARK_H
#include "common/event.h"

struct ap_position { uint64_t stream; struct ap_region region; char topic[64]; int32_t partition; uint64_t mark; uint64_t clock; uint64_t lineage; bool finished; };

/* What a region says to the other regions' collectors of tombstones. hlc: nothing at or below it is missing there (a hole),
 * waits (held events) or lies among the dead letters; 0: not known. retention_ms: for how long its logs may give out a
 * record again; -1: for ever, 0: not known. */
struct ap_settled { uint64_t hlc; int64_t retention_ms; };

struct ap_watermark { struct ap_region region; int64_t sent_ms; uint64_t hlc; struct ap_position *positions; size_t count; struct ap_settled settled; };
int ap_watermark_encode(const struct ap_schemas *s, const struct ap_watermark *w, struct ap_buf *out, struct ap_err *err);
int ap_watermark_decode(const struct ap_schemas *s, const void *value, size_t len, struct ap_watermark *out, struct ap_err *err);
void ap_watermark_fini(struct ap_watermark *w);

struct ap_token_entry { char topic[64]; int32_t partition; uint64_t seq; };
struct ap_token { struct ap_region region; uint64_t stream; uint64_t hlc; struct ap_token_entry *entries; size_t count;
                  uint64_t lineage; /* of the stream: floors do not name the streams they hold. 0: only the stream itself covers */ };
void ap_token_format(const struct ap_token *t, struct ap_buf *out);                       /* appends text, no NUL */
int ap_token_parse(const char *text, size_t len, struct ap_token *out, struct ap_err *err); /* AP_EINVAL: malformed */
void ap_token_fini(struct ap_token *t);
/* True when every entry of the token is covered: some position of its stream (or a floor of its lineage at or past the
 * stream) has mark >= seq. */
bool ap_token_covered(const struct ap_token *t, const struct ap_position *positions, size_t count);

#endif
