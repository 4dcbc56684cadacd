/* A daemon of ours as a child of this process: it ends with us, its log goes to a file, and it says on /readyz how far it is. */
#ifndef ANTIPODE_CTL_CHILD_H
#define ANTIPODE_CTL_CHILD_H
#include <stdbool.h>
#include <sys/types.h>
#include "ctl/files.h"

struct ap_child { pid_t pid; const char *binary; char log[AP_PATH_MAX]; char url[64]; };

/* binary lies beside this program. argv: what follows its name, NULL-terminated; it also gets a free port for http.listen. */
int ap_child_start(struct ap_child *c, const char *binary, const char *log, const char *const *argv, struct ap_err *err);
/* AP_EIO when it has ended by itself: *err has the end of its log. */
int ap_child_check(struct ap_child *c, struct ap_err *err);
void ap_child_ask(struct ap_child *c); /* ... to end; does not wait */
/* Ask it to end, and wait; kill it when it does not. */
void ap_child_stop(struct ap_child *c);

#endif
