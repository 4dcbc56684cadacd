/* Which start of the machine this is. What was written without waiting for the disk is sure to be there until the next one. */
#ifndef ANTIPODE_COMMON_BOOT_H
#define ANTIPODE_COMMON_BOOT_H
#include <stdbool.h>

#define AP_BOOT_ID_MAX 64 /* with its end */

/* The kernel's random id of this boot, without the newline. false, and an empty text, when it cannot be read. */
bool ap_boot_id(char out[AP_BOOT_ID_MAX]);
/* The same, of a file to which one was written. */
bool ap_boot_read(const char *file, char out[AP_BOOT_ID_MAX]);

#endif
