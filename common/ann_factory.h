/* Factory strings as far as they must be understood before FAISS sees them: private to ann*.c. */
#ifndef ANTIPODE_COMMON_ANN_FACTORY_H
#define ANTIPODE_COMMON_ANN_FACTORY_H
#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"

struct ap_factory_shape {
    uint64_t centroids; /* most that one k-means has to find; 1 when there is none */
    bool rotates;       /* a matrix of dim * dim */
};
struct ap_factory_shape ap_factory_look(const char *factory);
/* Length, characters, dimension, and the memory its tables would take: AP_EINVAL. */
int ap_factory_check(const char *factory, uint32_t dim, struct ap_err *err);

#endif
