/* The indexer's HTTP API: reads in the shapes of Qdrant's REST API, writes passed on to the region's producer.
 *
 * It serves from the first moment: until an index is attached, reads and /readyz answer 503 and say what is waited for.
 * A read looks at one view of the index; with a session token it first waits until the view covers it. Nothing that is
 * asked for is ignored: what is not served is refused with a 4xx that names it. */
#ifndef ANTIPODE_INDEXER_API_H
#define ANTIPODE_INDEXER_API_H
#include "indexer/config.h"
#include "indexer/index.h"
#include "indexer/tail.h"

struct ap_api;

/* Listens when it returns 0. config and metrics are borrowed and outlive the API. */
int ap_api_start(struct ap_api **out, const struct ap_indexer_config *config, struct ap_metrics *metrics, struct ap_err *err);
int ap_api_port(const struct ap_api *api);
/* What /readyz says while no index is attached; copied. Any thread. */
void ap_api_set_state(struct ap_api *api, const char *state);
/* From here on reads are served. Once; both are borrowed and outlive ap_api_stop. */
void ap_api_attach(struct ap_api *api, struct ap_index *index, struct ap_tail *tail);
/* Stops accepting, lets running requests end (waits need the tail to go on meanwhile), then frees. Safe on NULL. */
void ap_api_stop(struct ap_api **api);

#endif
