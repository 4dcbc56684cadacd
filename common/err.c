/* Errors: formatting into the caller's struct. Never allocates, so it works when memory is out. */
#include "common/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message is one line: what input brought along (a key from a request, a server's answer) must not break a log. */
static void one_line(char *text)
{
    for (; *text; text++)
        if (*text == '\n' || *text == '\r')
            *text = ' ';
}

int ap_err_set(struct ap_err *err, enum ap_code code, enum ap_err_class cls, const char *fmt, ...)
{
    if (!err)
        return code;
    /* Arguments may point into err->msg itself, so format aside first. */
    char text[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    one_line(text);
    err->code = code;
    err->cls = cls;
    memcpy(err->msg, text, sizeof text);
    return code;
}

int ap_err_wrap(struct ap_err *err, const char *fmt, ...)
{
    if (!err)
        return AP_EIO;
    char context[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(context, sizeof context, fmt, args);
    va_end(args);
    one_line(context);

    /* When both do not fit, the cause is cut last: it says what to do. */
    size_t cause = strlen(err->msg);
    size_t room = sizeof err->msg - 1;
    size_t lead = strlen(context);
    if (lead + 2 + cause > room)
        lead = cause + 2 < room ? room - cause - 2 : 0;
    if (lead == 0)
        return err->code;
    memmove(err->msg + lead + 2, err->msg, cause + 1);
    memcpy(err->msg, context, lead);
    memcpy(err->msg + lead, ": ", 2);
    return err->code;
}

const char *ap_code_name(int code)
{
    switch ((enum ap_code)code) {
    case AP_OK: return "ok";
    case AP_EINVAL: return "invalid";
    case AP_ENOMEM: return "no_memory";
    case AP_EIO: return "io";
    case AP_ENOSPC: return "no_space";
    case AP_ENOTFOUND: return "not_found";
    case AP_EEXISTS: return "exists";
    case AP_EBUSY: return "busy";
    case AP_ETIMEOUT: return "timeout";
    case AP_ESCHEMA: return "unknown_schema";
    case AP_ECORRUPT: return "corrupt";
    case AP_ECONFLICT: return "conflict";
    case AP_EUNSUPPORTED: return "unsupported";
    case AP_EKAFKA: return "kafka";
    case AP_ETOOBIG: return "too_big";
    case AP_ENOTREADY: return "not_ready";
    }
    return "unknown";
}
