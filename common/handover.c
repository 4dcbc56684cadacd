#include "common/handover.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static void name(const char *store, char *out, size_t cap)
{
    size_t len = strlen(store);
    while (len > 1 && store[len - 1] == '/')
        len--;
    snprintf(out, cap, "%.*s%s", (int)len, store, AP_HANDOVER_END);
}

bool ap_handover_asked(const char *store)
{
    char path[4200];
    name(store, path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool asked = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return asked;
}

int ap_handover_take(const char *store, int *fd, struct ap_err *err)
{
    char path[4200];
    name(store, path, sizeof path);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (*fd < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", path, strerror(errno));
    /* Those who only ask hold it for a moment. */
    for (int i = 0; i < 100; i++) {
        if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        usleep(10000);
    }
    close(*fd);
    *fd = -1;
    return ap_err_set(err, AP_EBUSY, AP_FATAL, "%s: another process exchanges this store", path);
}

void ap_handover_release(const char *store, int *fd)
{
    char path[4200];
    if (*fd < 0)
        return;
    name(store, path, sizeof path);
    unlink(path);
    close(*fd);
    *fd = -1;
}

int ap_begin_anew(char **argv, struct ap_err *err)
{
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    execv("/proc/self/exe", argv);
    return ap_err_set(err, AP_EIO, AP_FATAL, "cannot begin anew: %s", strerror(errno));
}
