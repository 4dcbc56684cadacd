#include "ctl/load_state.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int ap_load_state_open(struct ap_load_state *s, const char *path, json_t *load, struct ap_err *err)
{
    json_error_t why;
    memset(s, 0, sizeof *s);
    s->load = load;
    snprintf(s->path, sizeof s->path, "%s", path);
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return 0;
    json_t *root = json_load_file(path, 0, &why);
    json_t *row = json_object_get(root, "row"), *at = json_object_get(root, "at");
    int rc = 0;
    if (!json_is_integer(row) || !json_is_integer(at) || json_integer_value(row) < 0 || json_integer_value(at) < 0)
        rc = ap_err_set(err, AP_ECONFLICT, AP_FATAL, "%s: no state of a load%s%s; remove it, or name another with --state", path, root ? "" : ": ",
                        root ? "" : why.text);
    else if (!json_equal(json_object_get(root, "load"), load))
        rc = ap_err_set(err, AP_ECONFLICT, AP_FATAL,
                        "%s: a load that was not finished, but not this one (the file has changed, or it went elsewhere); --restart begins anew", path);
    if (rc == 0) {
        s->resumed = true;
        s->place = (struct ap_rows_place){(uint64_t)json_integer_value(row), (uint64_t)json_integer_value(at)};
    }
    json_decref(root);
    return rc;
}

int ap_load_state_save(struct ap_load_state *s, struct ap_rows_place place, struct ap_err *err)
{
    char new[sizeof s->path + 8];
    snprintf(new, sizeof new, "%s.new", s->path);
    json_t *root = json_pack("{s:O, s:I, s:I}", "load", s->load, "row", (json_int_t)place.row, "at", (json_int_t)place.at);
    int failed = json_dump_file(root, new, JSON_INDENT(1)) || rename(new, s->path);
    json_decref(root);
    return failed ? ap_err_set(err, AP_EIO, AP_FATAL, "%s: the state cannot be written: %s; --state names another place", s->path, strerror(errno)) : 0;
}

void ap_load_state_done(struct ap_load_state *s)
{
    unlink(s->path);
}

void ap_load_state_fini(struct ap_load_state *s)
{
    json_decref(s->load);
    s->load = NULL;
}
