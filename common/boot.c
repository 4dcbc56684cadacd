#include "common/boot.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool ap_boot_read(const char *file, char out[AP_BOOT_ID_MAX])
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, AP_BOOT_ID_MAX - 1) : -1;
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return out[0] != '\0';
}

bool ap_boot_id(char out[AP_BOOT_ID_MAX])
{
    return ap_boot_read("/proc/sys/kernel/random/boot_id", out);
}
