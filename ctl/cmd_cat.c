/* antipode cat: a topic's records, decoded, one JSON object a line. kcat's options where it has the same ones. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/log.h"
#include "common/schema.h"
#include "ctl/commands.h"
#include "ctl/describe.h"

const char ap_help_cat[] =
    "usage: antipode cat -b BROKER[,...] -t TOPIC [-p N] [-o beginning|end|OFFSET|-N] [-c COUNT] [-e] [--vectors] [-X KEY=VALUE]...\n"
    "\n"
    "The records of a topic, decoded, one JSON object a line: mutations, control records, watermarks, raw vectors, dead\n"
    "letters (with the reason in \"headers\").\n"
    "\n"
    "  -b BROKERS         addresses of Kafka; ANTIPODE_KAFKA_BOOTSTRAP_SERVERS when not given\n"
    "  -t TOPIC           as this cluster calls it: vec-mutations, eu.vec-control, dlq-mutations, ...\n"
    "  -p N               this partition only\n"
    "  -o OFFSET          where to begin in each partition: beginning (default), end, a number, or -N: the last N\n"
    "  -c COUNT           stop after so many records\n"
    "  -e                 stop at the end, instead of waiting for more\n"
    "      --vectors      print vectors too: floats, or hex when encoded\n"
    "  -X KEY=VALUE       a property of the Kafka client (security.protocol=...)\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit code 0; 1 when Kafka or the topic cannot be read; 2 usage.\n";

enum { REQUEST_MS = 10000, POLL_MS = 200, PROPERTIES_MAX = 64 };

struct cat {
    const char *brokers, *topic, *offset;
    int32_t partition; /* -1: all */
    long long count;   /* -1: no end */
    bool exit_at_end, vectors;
    struct ap_kafka_property properties[PROPERTIES_MAX];
    size_t property_count;

    rd_kafka_t *rk;
    struct ap_schemas *schemas;
    struct ap_buf scratch;
    int32_t open_parts; /* not at their end yet */
    bool *ended;        /* by partition */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- options -------------------------------------------------------------------------------------------------------- */

static int add_property(struct cat *c, char *text, struct ap_err *err)
{
    char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "-X: \"%s\" is not KEY=VALUE", text);
    if (c->property_count + 1 >= PROPERTIES_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "-X: more than %d", PROPERTIES_MAX - 1);
    *equals = '\0';
    c->properties[c->property_count++] = (struct ap_kafka_property){text, equals + 1};
    return 0;
}

static int parse_number(const char *what, const char *text, long long low, long long *out, struct ap_err *err)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno || end == text || *end || *out < low)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no such number", what, text);
    return 0;
}

static int parse(struct cat *c, int argc, char **argv, struct ap_err *err)
{
    enum { VECTORS = 256 };
    static const struct option options[] = {
        {"vectors", no_argument, NULL, VECTORS}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    long long number;
    int rc = 0;
    c->partition = -1;
    c->count = -1;
    c->offset = "beginning";
    c->brokers = getenv("ANTIPODE_KAFKA_BOOTSTRAP_SERVERS");
    optind = 1;
    for (int o; !rc && (o = getopt_long(argc, argv, ":b:t:p:o:c:eX:h", options, NULL)) != -1;) {
        switch (o) {
        case 'b': c->brokers = optarg; break;
        case 't': c->topic = optarg; break;
        case 'p':
            rc = parse_number("-p", optarg, 0, &number, err);
            c->partition = rc ? 0 : (int32_t)number;
            break;
        case 'o': c->offset = optarg; break;
        case 'c': rc = parse_number("-c", optarg, 0, &c->count, err); break;
        case 'e': c->exit_at_end = true; break;
        case 'X': rc = add_property(c, optarg, err); break;
        case VECTORS: c->vectors = true; break;
        case 'h': fputs(ap_help_cat, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    if (!rc && optind < argc)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is too much", argv[optind]);
    if (!rc && (!c->brokers || !c->topic))
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s is missing", c->topic ? "-b BROKER" : "-t TOPIC");
    if (!rc && strcmp(c->offset, "beginning") && strcmp(c->offset, "end"))
        rc = parse_number("-o", c->offset, INT64_MIN, &number, err);
    return rc;
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

/* Absolute offset to begin at; a number outside what is there is moved to its nearer end. */
static int begin_at(struct cat *c, int32_t partition, int64_t *offset, struct ap_err *err)
{
    int64_t low, high;
    rd_kafka_resp_err_t rc = rd_kafka_query_watermark_offsets(c->rk, c->topic, partition, &low, &high, REQUEST_MS);
    if (rc)
        return ap_err_set(err, AP_EKAFKA, AP_FATAL, "%s[%d]: %s", c->topic, (int)partition, rd_kafka_err2str(rc));
    if (!strcmp(c->offset, "beginning"))
        *offset = low;
    else if (!strcmp(c->offset, "end"))
        *offset = high;
    else if (*c->offset == '-')
        *offset = high + strtoll(c->offset, NULL, 10);
    else
        *offset = strtoll(c->offset, NULL, 10);
    *offset = *offset < low ? low : *offset > high ? high : *offset;
    return 0;
}

static int assign(struct cat *c, struct ap_err *err)
{
    int32_t count;
    int rc = ap_kafka_partitions(c->rk, c->topic, REQUEST_MS, &count, err);
    if (rc)
        return rc;
    if (c->partition >= count)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s has %d partitions, from 0", c->topic, (int)count);
    c->ended = calloc((size_t)count, sizeof *c->ended);
    if (!c->ended)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);
    for (int32_t p = 0; p < count && !rc; p++) {
        if (c->partition >= 0 && p != c->partition)
            continue;
        rc = begin_at(c, p, &rd_kafka_topic_partition_list_add(list, c->topic, p)->offset, err);
        c->open_parts++;
    }
    rd_kafka_resp_err_t failed = rc ? 0 : rd_kafka_assign(c->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return failed ? ap_err_set(err, AP_EKAFKA, AP_FATAL, "%s: %s", c->topic, rd_kafka_err2str(failed)) : rc;
}

static int print(struct cat *c, const rd_kafka_message_t *m, struct ap_err *err)
{
    json_t *line = ap_describe(c->schemas, m, ap_record_kind_of(c->topic), c->vectors, &c->scratch);
    int failed = json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) || putchar('\n') == EOF;
    json_decref(line);
    return failed ? ap_err_set(err, AP_EIO, AP_FATAL, "stdout: %s", strerror(errno)) : 0;
}

static int on_message(struct cat *c, const rd_kafka_message_t *m, struct ap_err *err)
{
    if (!m->err) {
        if (c->count > 0)
            c->count--;
        return print(c, m, err);
    }
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        c->open_parts -= !c->ended[m->partition];
        c->ended[m->partition] = true;
        fflush(stdout);
        return 0;
    }
    if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
        return ap_err_set(err, AP_EKAFKA, AP_FATAL, "%s[%d]: the records at this offset have just been deleted; run it again", c->topic, (int)m->partition);
    fprintf(stderr, "antipode cat: %s\n", rd_kafka_message_errstr(m)); /* the client tries again by itself */
    return 0;
}

static int run(struct cat *c, struct ap_err *err)
{
    int rc = 0;
    while (!rc && !interrupted && c->count != 0 && !(c->exit_at_end && c->open_parts <= 0)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(c->rk, POLL_MS);
        if (!m) {
            fflush(stdout);
            continue;
        }
        rc = on_message(c, m, err);
        rd_kafka_message_destroy(m);
    }
    if (fflush(stdout) && !rc)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "stdout: %s", strerror(errno));
    return rc;
}

static int open_all(struct cat *c, struct ap_err *err)
{
    char servers[] = "bootstrap.servers", client_id[64];
    size_t n = c->property_count;
    c->properties[n] = (struct ap_kafka_property){servers, (char *)(uintptr_t)c->brokers}; /* only read */
    struct ap_config_extra extra = {.kafka = c->properties, .kafka_count = n + 1};
    snprintf(client_id, sizeof client_id, "antipode-cat-%d", (int)getpid());
    ap_log_init("cat", AP_LOG_WARN, NULL, NULL);
    int rc = ap_schemas_new(&c->schemas, err);
    if (!rc && !(c->rk = ap_kafka_consumer(&extra, client_id, NULL, err)))
        rc = err->code;
    return rc ? rc : assign(c, err);
}

int ap_cmd_cat(int argc, char **argv)
{
    struct cat c = {0};
    struct ap_err err = {0};
    int rc = parse(&c, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc) {
        fprintf(stderr, "antipode cat: %s\nTry: antipode cat --help\n", err.msg);
        return 2;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    rc = open_all(&c, &err);
    if (!rc)
        rc = run(&c, &err);
    if (rc)
        fprintf(stderr, "antipode cat: %s\n", err.msg);
    if (c.rk)
        rd_kafka_destroy_flags(c.rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    ap_schemas_free(&c.schemas);
    ap_buf_free(&c.scratch);
    free(c.ended);
    return rc ? 1 : 0;
}
