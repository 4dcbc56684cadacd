/* Parts of a payload, as with_payload names them.
 *
 * A path is keys joined by dots; `key[]` steps into every element of a list. An included path keeps the objects around
 * it, an excluded one leaves them. Paths that lead nowhere change nothing. */
#ifndef ANTIPODE_INDEXER_PAYLOAD_SELECT_H
#define ANTIPODE_INDEXER_PAYLOAD_SELECT_H
#include <jansson.h>
#include <stdbool.h>

/* payload: an object; paths: a list of strings. New reference to an object. Cannot fail but for memory (aborts). */
json_t *ap_payload_select(json_t *payload, const json_t *paths, bool include);

#endif
