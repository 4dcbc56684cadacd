/* Configuration: defaults, then the file, then the environment, then flags; each later source overwrites.
 *
 * Every value goes through assign(), which knows where it came from, so that every error can name its source. On
 * failure what was set so far is freed: the caller need not call ap_config_free then, though it may. */
#include "common/config.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "common/version.h"

#define FILE_MAX_BYTES (1u << 20)
#define SOURCE_MAX 320

struct loader {
    const struct ap_option *options;
    size_t count;
    char *config;
    struct ap_config_extra *extra;
    bool *given;      /* by any source but the default */
    size_t *line_of;  /* line of the file that set it, 0 if none */
};

static void *must_alloc(void *p)
{
    if (!p)
        abort(); /* start-up: nothing is running yet that could be lost */
    return p;
}

static size_t option_count(const struct ap_option *options)
{
    size_t n = 0;
    while (options[n].key)
        n++;
    return n;
}

static int usage(struct ap_err *err, const char *source, const char *key, const char *what)
{
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s: %s", source, key, what);
}

static int parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0)
            return *out = true, 0;
        if (strcmp(text, no[i]) == 0)
            return *out = false, 0;
    }
    return AP_EINVAL;
}

static int out_of_range(struct ap_err *err, const char *source, const struct ap_option *opt, const char *text)
{
    char what[160];
    snprintf(what, sizeof what, "%.60s is out of range, it must be between %.15g and %.15g", text, opt->min, opt->max);
    return usage(err, source, opt->key, what);
}

/* A row without bounds has min == max. */
static bool within(const struct ap_option *opt, double value)
{
    return opt->min >= opt->max || (value >= opt->min && value <= opt->max);
}

static void note_source(struct ap_config_extra *extra, const char *key, const char *where)
{
    extra->sources = must_alloc(realloc(extra->sources, (extra->source_count + 1) * sizeof *extra->sources));
    extra->sources[extra->source_count++] = (struct ap_config_source){key, must_alloc(strdup(where))};
}

static void free_sources(struct ap_config_extra *extra)
{
    for (size_t i = 0; i < extra->source_count; i++)
        free(extra->sources[i].where);
    free(extra->sources);
    extra->sources = NULL;
    extra->source_count = 0;
}

int ap_config_blame(const struct ap_config_extra *extra, struct ap_err *err)
{
    size_t len = strcspn(err->msg, ":");
    for (size_t i = extra->source_count; i-- > 0;)
        if (strlen(extra->sources[i].key) == len && memcmp(extra->sources[i].key, err->msg, len) == 0)
            return ap_err_wrap(err, "%s", extra->sources[i].where);
    return err->code;
}

static int assign(const struct loader *l, const struct ap_option *opt, const char *text, const char *source,
                  struct ap_err *err)
{
    char *field = l->config + opt->offset;
    char *end;
    errno = 0;
    note_source(l->extra, opt->key, source);
    switch (opt->type) {
    case AP_OPT_STRING: {
        char *copy = must_alloc(strdup(text));
        char **slot = (char **)(void *)field;
        free(*slot);
        *slot = copy;
        return 0;
    }
    case AP_OPT_INT: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || isspace((unsigned char)*text)) {
            char what[96];
            snprintf(what, sizeof what, "\"%.40s\" is not a whole number", text);
            return usage(err, source, opt->key, what);
        }
        if (errno == ERANGE || !within(opt, (double)value))
            return out_of_range(err, source, opt, text);
        int64_t v = value;
        memcpy(field, &v, sizeof v);
        return 0;
    }
    case AP_OPT_DOUBLE: {
        double value = strtod(text, &end);
        if (end == text || *end || isspace((unsigned char)*text) || !isfinite(value)) {
            char what[96];
            snprintf(what, sizeof what, "\"%.40s\" is not a finite number", text);
            return usage(err, source, opt->key, what);
        }
        if (!within(opt, value))
            return out_of_range(err, source, opt, text);
        memcpy(field, &value, sizeof value);
        return 0;
    }
    case AP_OPT_BOOL: {
        bool value;
        if (parse_bool(text, &value)) {
            char what[96];
            snprintf(what, sizeof what, "\"%.40s\" is neither true nor false", text);
            return usage(err, source, opt->key, what);
        }
        memcpy(field, &value, sizeof value);
        return 0;
    }
    }
    return usage(err, source, opt->key, "has an unknown type in the option table");
}

static void add_kafka(struct ap_config_extra *extra, const char *key, const char *value)
{
    extra->kafka = must_alloc(realloc(extra->kafka, (extra->kafka_count + 1) * sizeof *extra->kafka));
    extra->kafka[extra->kafka_count++] =
        (struct ap_kafka_property){must_alloc(strdup(key)), must_alloc(strdup(value))};
}

static const struct ap_option *find(const struct loader *l, const char *key)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->options[i].key, key) == 0)
            return &l->options[i];
    return NULL;
}

/* One key of the file (line > 0) or of the flags (line 0). */
static int set_key(struct loader *l, const char *key, const char *value, const char *source, size_t line,
                   struct ap_err *err)
{
    if (strncmp(key, "kafka.", 6) == 0) {
        if (!key[6])
            return usage(err, source, key, "names no Kafka property");
        add_kafka(l->extra, key + 6, value);
        return 0;
    }
    const struct ap_option *opt = find(l, key);
    if (!opt)
        return usage(err, source, key, "unknown option, --help lists all of them");
    size_t i = (size_t)(opt - l->options);
    if (line && l->line_of[i]) {
        char what[64];
        snprintf(what, sizeof what, "is already set on line %zu", l->line_of[i]);
        return usage(err, source, key, what);
    }
    if (line)
        l->line_of[i] = line;
    l->given[i] = true;
    return assign(l, opt, value, source, err);
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = 0;
    return text;
}

/* '#' starts a comment at the line's start or after a blank; inside a value (a password) it is a character. */
static void cut_comment(char *line)
{
    for (char *p = line; *p; p++)
        if (*p == '#' && (p == line || isspace((unsigned char)p[-1]))) {
            *p = 0;
            return;
        }
}

static int load_text(struct loader *l, const char *name, const char *text, size_t len, struct ap_err *err)
{
    int rc = 0;
    size_t line_no = 0;
    for (const char *p = text, *stop = text + len; p < stop && rc == 0;) {
        const char *nl = memchr(p, '\n', (size_t)(stop - p));
        size_t n = (size_t)((nl ? nl : stop) - p);
        char source[SOURCE_MAX];
        snprintf(source, sizeof source, "%s:%zu", name, ++line_no);
        if (memchr(p, 0, n))
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: a NUL byte: this is not a text file", source);

        char *line = must_alloc(strndup(p, n));
        cut_comment(line);
        char *key = trim(line);
        char *eq = strchr(key, '=');
        if (*key && !eq) {
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%.60s\" is not of the form key = value", source, key);
        } else if (eq == key && *key) {
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: there is no key before '='", source);
        } else if (*key) {
            *eq = 0;
            rc = set_key(l, trim(key), trim(eq + 1), source, line_no, err);
        }
        free(line);
        p += n + 1;
    }
    return rc;
}

static int load_file(struct loader *l, const char *path, struct ap_err *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return ap_err_set(err, AP_EIO, AP_FATAL, "cannot open the configuration file %s: %s", path, strerror(errno));
    struct ap_buf text = {0};
    int rc = 0;
    size_t n;
    do {
        ap_buf_reserve(&text, 4096);
        n = fread(text.data + text.len, 1, 4096, file);
        text.len += n;
    } while (n && text.len <= FILE_MAX_BYTES);
    if (ferror(file))
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "cannot read the configuration file %s: %s", path, strerror(errno));
    else if (text.len > FILE_MAX_BYTES)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: over %u bytes: this is not a configuration file", path,
                        FILE_MAX_BYTES);
    else
        rc = load_text(l, path, (const char *)text.data, text.len, err);
    fclose(file);
    ap_buf_free(&text);
    return rc;
}

static void env_name(const char *key, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "ANTIPODE_%s", key);
    for (size_t i = sizeof "ANTIPODE_" - 1; i < n && i < size - 1; i++)
        out[i] = out[i] == '.' || out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static int load_env(struct loader *l, struct ap_err *err)
{
    for (size_t i = 0; i < l->count; i++) {
        char name[128], source[SOURCE_MAX];
        env_name(l->options[i].key, name, sizeof name);
        const char *value = getenv(name);
        if (!value)
            continue;
        snprintf(source, sizeof source, "environment variable %s", name);
        int rc = assign(l, &l->options[i], value, source, err);
        if (rc)
            return rc;
        l->given[i] = true;
    }
    return 0;
}

/* The argument at *i as key and value. A boolean flag may stand without a value. Returns the value, NULL if missing. */
static const char *flag_value(const struct loader *l, int argc, char **argv, int *i, char *key, size_t key_size)
{
    const char *arg = argv[*i] + 2;
    const char *eq = strchr(arg, '=');
    snprintf(key, key_size, "%.*s", eq ? (int)(eq - arg) : (int)strlen(arg), arg);
    if (eq)
        return eq + 1;
    const struct ap_option *opt = find(l, key);
    bool flag;
    if (opt && opt->type == AP_OPT_BOOL && (*i + 1 >= argc || parse_bool(argv[*i + 1], &flag)))
        return "true";
    return *i + 1 < argc ? argv[++*i] : NULL;
}

/* path_only: just find --config (the file comes before the flags). Otherwise set everything. */
static int load_flags(struct loader *l, int argc, char **argv, bool path_only, const char **path, struct ap_err *err)
{
    for (int i = 1; i < argc; i++) {
        char key[128], source[SOURCE_MAX];
        const char *value;
        if (strcmp(argv[i], "-X") == 0) {
            if (++i >= argc || !strchr(argv[i], '=') || argv[i][0] == '=')
                return ap_err_set(err, AP_EINVAL, AP_FATAL, "flag -X: wants property=value%s%s", i < argc ? ", not " : "",
                                  i < argc ? argv[i] : "");
            snprintf(key, sizeof key, "kafka.%.*s", (int)(strchr(argv[i], '=') - argv[i]), argv[i]);
            value = strchr(argv[i], '=') + 1;
        } else if (strncmp(argv[i], "--", 2) == 0 && argv[i][2]) {
            value = flag_value(l, argc, argv, &i, key, sizeof key);
        } else {
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "unexpected argument \"%.100s\": flags are --key value, --help lists them",
                              argv[i]);
        }
        snprintf(source, sizeof source, "flag --%s", key);
        if (!value)
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: has no value", source);
        if (strcmp(key, "config") == 0) {
            *path = value;
            continue;
        }
        int rc = path_only ? 0 : set_key(l, key, value, source, 0, err);
        if (rc)
            return rc;
    }
    return 0;
}

static void print_help(const struct ap_option *options, const char *program)
{
    printf("usage: %s [--config FILE] [--key VALUE]... [-X kafka-property=VALUE]...\n\n", program);
    printf("Each option is a flag (--key value), an environment variable, or a line of the file (key = value);\n"
           "the flag wins over the environment, the environment over the file.\n\n");
    for (; options->key; options++) {
        char name[128];
        env_name(options->key, name, sizeof name);
        printf("  --%s\n      %s\n      %s", options->key, options->doc, name);
        if (options->required)
            printf(", required");
        else if (options->fallback && *options->fallback)
            printf(", default %s", options->fallback);
        putchar('\n');
    }
    printf("  -X property=value, kafka.property = value\n      passed on to librdkafka as it is\n"
           "  --help, --version\n");
}

static void set_defaults(const struct loader *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct ap_option *opt = &l->options[i];
        struct ap_err err;
        if (opt->fallback && assign(l, opt, opt->fallback, "default", &err)) {
            fprintf(stderr, "option table: %s\n", err.msg);
            abort(); /* the program's own table is wrong */
        }
    }
    free_sources(l->extra); /* a default was set nowhere */
}

static int check_required(const struct loader *l, struct ap_err *err)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct ap_option *opt = &l->options[i];
        char *const *text = (char *const *)(void *)(l->config + opt->offset);
        if (!opt->required || (l->given[i] && (opt->type != AP_OPT_STRING || **text)))
            continue;
        char name[128];
        env_name(opt->key, name, sizeof name);
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s is required: set it in the file, as %s or as --%s (%s)", opt->key, name,
                          opt->key, opt->doc);
    }
    return 0;
}

static void loader_init(struct loader *l, const struct ap_option *options, void *config, struct ap_config_extra *extra)
{
    size_t n = option_count(options);
    *l = (struct loader){options, n, config, extra, must_alloc(calloc(n + 1, sizeof *l->given)),
                         must_alloc(calloc(n + 1, sizeof *l->line_of))};
    *extra = (struct ap_config_extra){0};
    set_defaults(l);
}

static int loader_done(struct loader *l, int rc)
{
    free(l->given);
    free(l->line_of);
    if (rc < 0)
        ap_config_free(l->options, l->config, l->extra);
    return rc;
}

int ap_config_load(const struct ap_option *options, void *config, struct ap_config_extra *extra, int argc, char **argv,
                   struct ap_err *err)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *program = slash ? slash + 1 : argc > 0 ? argv[0] : "antipode";
    for (int i = 1; i < argc; i++) {
        bool help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
        if (help)
            print_help(options, program);
        else if (strcmp(argv[i], "--version") == 0)
            printf("%s %s\n", program, ANTIPODE_VERSION);
        else
            continue;
        *extra = (struct ap_config_extra){0};
        return 1;
    }

    struct loader l;
    loader_init(&l, options, config, extra);
    const char *path = getenv("ANTIPODE_CONFIG");
    int rc = load_flags(&l, argc, argv, true, &path, err);
    if (rc == 0 && path)
        rc = load_file(&l, path, err);
    if (rc == 0)
        rc = load_env(&l, err);
    if (rc == 0)
        rc = load_flags(&l, argc, argv, false, &path, err);
    if (rc == 0)
        rc = check_required(&l, err);
    return loader_done(&l, rc);
}

int ap_config_parse(const struct ap_option *options, void *config, struct ap_config_extra *extra, const char *name,
                    const char *text, size_t len, struct ap_err *err)
{
    struct loader l;
    loader_init(&l, options, config, extra);
    return loader_done(&l, load_text(&l, name, text, len, err));
}

void ap_config_free(const struct ap_option *options, void *config, struct ap_config_extra *extra)
{
    for (; options->key; options++)
        if (options->type == AP_OPT_STRING) {
            char **slot = (char **)(void *)((char *)config + options->offset);
            free(*slot);
            *slot = NULL;
        }
    for (size_t i = 0; i < extra->kafka_count; i++) {
        free(extra->kafka[i].key);
        free(extra->kafka[i].value);
    }
    free(extra->kafka);
    free_sources(extra);
    *extra = (struct ap_config_extra){0};
}
