/* The producers of all regions, as the indexer's configuration names them: whom a read asks that wants to know what has been
 * written elsewhere.
 *
 * Invariant: after ap_peers_parse returns 0 every region is there once; `complete` says that every configured region is. */
#ifndef ANTIPODE_INDEXER_PEERS_H
#define ANTIPODE_INDEXER_PEERS_H
#include "common/err.h"
#include "common/ident.h"

#define AP_PEERS_MAX 17

struct ap_peers {
    struct { struct ap_region region; char url[256]; } list[AP_PEERS_MAX]; /* the own region first */
    size_t count;
    bool complete;
};
/* peers: "us=http://host:port,ap=http://…", "" for none; regions: as the key. The own region need not be among peers: its
 * producer is producer_url. AP_EINVAL: peers names a region that regions does not, leaves one out, or has no such form. */
int ap_peers_parse(struct ap_peers *out, const struct ap_region *own, const char *regions, const char *peers, const char *producer_url, struct ap_err *err);
/* As above for a key that may leave regions out; the own one has no address, and is refused one. */
int ap_peers_parse_some(struct ap_peers *out, const struct ap_region *own, const char *regions, const char *key, const char *text, struct ap_err *err);

#endif
