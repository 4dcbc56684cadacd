/* What the control records say about regions and streams, for any thread: tokens, retired regions.
 *
 * The tail changes the catalog now and then, under catalog_lock; here it is only read. */
#include "common/retired.h"
#include "indexer/index_impl.h"

int ap_index_check_token(struct ap_index *index, const struct ap_token *token, struct ap_err *err)
{
    pthread_rwlock_rdlock(&index->catalog_lock);
    int rc = ap_catalog_check_token(index->catalog, token, err);
    pthread_rwlock_unlock(&index->catalog_lock);
    return rc;
}

bool ap_index_region_is_retired(struct ap_index *index, const struct ap_region *region)
{
    pthread_rwlock_rdlock(&index->catalog_lock);
    bool over = ap_catalog_region_is_retired(index->catalog, region);
    pthread_rwlock_unlock(&index->catalog_lock);
    return over;
}

void ap_index_forget_retired(struct ap_index *index, struct ap_position *positions, size_t count)
{
    pthread_rwlock_rdlock(&index->catalog_lock);
    for (size_t i = 0; i < count; i++)
        if (ap_catalog_stream_is_retired(index->catalog, positions[i].stream))
            positions[i].mark = 0;
    pthread_rwlock_unlock(&index->catalog_lock);
}
