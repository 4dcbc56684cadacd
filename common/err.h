/* Errors: one struct, filled by the callee, that says what happened, how bad it is, and what to do.
 *
 * Invariant: a function that can fail returns 0 or a negative ap_code, and on failure has filled the caller's
 * struct ap_err (which may be NULL: then only the code is reported). An error is returned or logged, never both. */
#ifndef ANTIPODE_COMMON_ERR_H
#define ANTIPODE_COMMON_ERR_H

enum ap_code {
    AP_OK = 0,
    AP_EINVAL = -1,      /* the input is wrong; HTTP 400 */
    AP_ENOMEM = -2,
    AP_EIO = -3,         /* a file, a socket or the store failed */
    AP_ENOSPC = -4,      /* the disk or the store's map is full */
    AP_ENOTFOUND = -5,   /* HTTP 404 */
    AP_EEXISTS = -6,     /* HTTP 409 */
    AP_EBUSY = -7,       /* a bounded queue is full; HTTP 503 with Retry-After */
    AP_ETIMEOUT = -8,    /* a deadline passed */
    AP_ESCHEMA = -9,     /* well-formed, but of a schema nobody has told us yet */
    AP_ECORRUPT = -10,   /* bytes that do not check: checksum, format version, impossible length */
    AP_ECONFLICT = -11,  /* contradicts what is already agreed; HTTP 409 */
    AP_EUNSUPPORTED = -12, /* understood, but not served; HTTP 400 that names it */
    AP_EKAFKA = -13,     /* librdkafka reported an error */
    AP_ETOOBIG = -14,    /* over a configured limit; HTTP 413 */
    AP_ENOTREADY = -15,  /* not ready yet, later it will be; HTTP 503 */
};

/* What the main loop should do: try again, set the offending input aside and go on, or stop the daemon. */
enum ap_err_class { AP_NONE = 0, AP_RETRY, AP_POISON, AP_FATAL };

struct ap_err {
    int code;                /* enum ap_code */
    enum ap_err_class cls;
    char msg[480];           /* one line, no trailing newline; outermost context first */
};

/* Fill *err (may be NULL) and return code, so that `return ap_err_set(err, ...)` reads well. */
int ap_err_set(struct ap_err *err, enum ap_code code, enum ap_err_class cls, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Prepend "context: " to err->msg; class and code stay. Returns err->code (or AP_EIO if err is NULL). */
int ap_err_wrap(struct ap_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A stable word for a code, for logs and metrics: "invalid", "no_space", ... Never NULL. */
const char *ap_code_name(int code);

#endif
