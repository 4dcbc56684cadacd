/* antipode-delayline: a TCP relay that makes distance, for tests.
 *
 *     antipode-delayline --control PORT --line NAME=LISTEN:TARGET [--line ...]        (all on 127.0.0.1)
 *
 * Each line accepts on LISTEN and connects on to TARGET. What arrives is kept until its time has come: bandwidth
 * first (bytes leave one after another), then the one-way delay and some jitter, never overtaking. Each direction has
 * its own delay: "in" is from the client to the target, "out" is back. Bytes of a direction share its bandwidth over
 * all connections of the line.
 *
 * Control, one command a line, each answered with a line "ok" or "error ..." (show: JSON):
 *     set NAME|* in_ms=40 out_ms=40 jitter_ms=5 bytes_per_s=1000000 stalled=1 refusing=1
 *     cut NAME|*       resets every connection
 *     show
 * stalled: connections stay, nothing moves, as on a lossy link. refusing: new connections are refused.
 *
 * One thread, one epoll. A flow holds at most WINDOW bytes; then its sender is not read, as TCP itself would do. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WINDOW (64u << 20)
#define CHUNK (64u << 10)
#define MAX_LINES 16

struct chunk {
    struct chunk *next;
    int64_t due_ns;
    size_t len, sent; /* len 0: the sender has finished */
    char data[];
};

/* One direction of one connection. */
struct flow {
    struct chunk *head, *tail;
    size_t bytes;
    int64_t last_due_ns;
    bool finished; /* nothing more will be read */
    bool blocked;  /* the receiver takes nothing now */
};

enum kind { LISTENER, PEER, CONTROL_LISTENER, CONTROL };

/* What epoll gives back. */
struct end {
    enum kind kind;
    int fd;
    uint32_t armed;
    struct line *line;
    struct pair *pair;
    int side; /* 0: the client's end, whose bytes go "in"; 1: the target's end */
};

struct pair {
    struct pair *next;
    struct end end[2];
    struct flow flow[2]; /* flow[s]: read from end[s], written to the other */
    bool dead;
};

struct line {
    char name[32];
    uint16_t listen_port, target_port;
    struct end listener;
    struct pair *pairs;
    int64_t delay_ns[2], jitter_ns;
    double bytes_per_s; /* 0: without limit */
    int64_t free_ns[2]; /* when the link is free again */
    bool stalled, refusing;
    uint64_t bytes[2], connections;
};

struct session {
    struct end end;
    char text[512];
    size_t len;
};

static struct line lines[MAX_LINES];
static int line_count;
static int epoll_fd;
static volatile sig_atomic_t stopping;

static void on_term(int number) {
    (void)number;
    stopping = 1;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "delayline: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void arm(struct end *end, uint32_t events) {
    if (end->fd < 0 || end->armed == events) return;
    struct epoll_event e = {.events = events, .data.ptr = end};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, end->fd, &e)) fail("epoll_ctl");
    end->armed = events;
}

static void watch(struct end *end, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = end};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, end->fd, &e)) fail("epoll_ctl");
    end->armed = events;
}

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listen_on(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = loopback(port);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 128)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- connections ------------------------------------------------------------------------------------------- */

static void flow_clear(struct flow *flow) {
    for (struct chunk *c = flow->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *flow = (struct flow){.finished = true};
}

/* Closes both ends; reap() frees it, since epoll may still hold an event for it in this round. */
static void pair_close(struct pair *pair, bool reset) {
    if (pair->dead) return;
    for (int s = 0; s < 2; s++) {
        if (reset) {
            struct linger none = {.l_onoff = 1, .l_linger = 0};
            setsockopt(pair->end[s].fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        }
        close(pair->end[s].fd);
        pair->end[s].fd = -1;
        flow_clear(&pair->flow[s]);
    }
    pair->dead = true;
}

static void reap(struct line *line) {
    for (struct pair **at = &line->pairs; *at;) {
        struct pair *pair = *at;
        if (pair->dead) {
            *at = pair->next;
            free(pair);
        } else {
            at = &pair->next;
        }
    }
}

static void line_accept(struct line *line) {
    int client = accept4(line->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
    if (client < 0) return;
    int target = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = loopback(line->target_port);
    if (target < 0 || (connect(target, (struct sockaddr *)&at, sizeof at) && errno != EINPROGRESS)) {
        if (target >= 0) close(target);
        close(client);
        return;
    }
    struct pair *pair = calloc(1, sizeof *pair);
    if (!pair) fail("memory");
    int fds[2] = {client, target};
    for (int s = 0; s < 2; s++) {
        setsockopt(fds[s], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pair->end[s] = (struct end){.kind = PEER, .fd = fds[s], .line = line, .pair = pair, .side = s};
        watch(&pair->end[s], EPOLLIN);
    }
    pair->next = line->pairs;
    line->pairs = pair;
    line->connections++;
}

/* When bytes read now may be delivered. */
static int64_t due(struct line *line, struct flow *flow, int side, size_t len, int64_t now) {
    int64_t at = now;
    if (line->bytes_per_s > 0) {
        if (line->free_ns[side] > at) at = line->free_ns[side];
        at += (int64_t)((double)len / line->bytes_per_s * 1e9);
        line->free_ns[side] = at;
    }
    at += line->delay_ns[side];
    if (line->jitter_ns > 0) at += (int64_t)(drand48() * (double)line->jitter_ns);
    if (at < flow->last_due_ns) at = flow->last_due_ns;
    return flow->last_due_ns = at;
}

static void pair_read(struct pair *pair, int side, int64_t now) {
    struct line *line = pair->end[side].line;
    struct flow *flow = &pair->flow[side];
    while (!pair->dead && !flow->finished && flow->bytes < WINDOW) {
        struct chunk *chunk = malloc(sizeof *chunk + CHUNK);
        if (!chunk) fail("memory");
        ssize_t n = recv(pair->end[side].fd, chunk->data, CHUNK, 0);
        if (n < 0) {
            free(chunk);
            if (errno == EINTR) continue;
            if (errno != EAGAIN) pair_close(pair, true);
            return;
        }
        struct chunk *shrunk = realloc(chunk, sizeof *chunk + (size_t)n);
        chunk = shrunk ? shrunk : chunk;
        chunk->next = NULL;
        chunk->len = (size_t)n;
        chunk->sent = 0;
        chunk->due_ns = due(line, flow, side, chunk->len, now);
        if (flow->tail) flow->tail->next = chunk;
        else flow->head = chunk;
        flow->tail = chunk;
        flow->bytes += chunk->len;
        if (n == 0) flow->finished = true;
        if ((size_t)n < CHUNK) return;
    }
}

/* Delivers what is due. */
static void pair_write(struct pair *pair, int side, int64_t now) {
    struct flow *flow = &pair->flow[side];
    int to = pair->end[1 - side].fd;
    while (!pair->dead && flow->head && flow->head->due_ns <= now) {
        struct chunk *chunk = flow->head;
        if (chunk->len == 0) {
            shutdown(to, SHUT_WR);
        } else {
            ssize_t n = send(to, chunk->data + chunk->sent, chunk->len - chunk->sent, MSG_NOSIGNAL);
            if (n < 0) {
                if (errno == EINTR) continue;
                if (errno == EAGAIN || errno == ENOTCONN) flow->blocked = true;
                else pair_close(pair, true);
                return;
            }
            pair->end[0].line->bytes[side] += (uint64_t)n;
            chunk->sent += (size_t)n;
            if (chunk->sent < chunk->len) {
                flow->blocked = true;
                return;
            }
        }
        flow->head = chunk->next;
        if (!flow->head) flow->tail = NULL;
        flow->bytes -= chunk->len;
        free(chunk);
    }
}

static void pair_tend(struct pair *pair, int64_t now) {
    struct line *line = pair->end[0].line;
    if (!line->stalled)
        for (int s = 0; s < 2; s++)
            if (!pair->flow[s].blocked) pair_write(pair, s, now);
    if (pair->dead) return;
    if (pair->flow[0].finished && pair->flow[1].finished && !pair->flow[0].head && !pair->flow[1].head) {
        pair_close(pair, false);
        return;
    }
    for (int s = 0; s < 2; s++) {
        bool read = !line->stalled && !pair->flow[s].finished && pair->flow[s].bytes < WINDOW;
        bool write = !line->stalled && pair->flow[1 - s].blocked;
        arm(&pair->end[s], (read ? (uint32_t)EPOLLIN : 0) | (write ? (uint32_t)EPOLLOUT : 0));
    }
}

/* The next time at which something is due; INT64_MAX for never. */
static int64_t next_due(void) {
    int64_t next = INT64_MAX;
    for (int i = 0; i < line_count; i++) {
        if (lines[i].stalled) continue;
        for (struct pair *p = lines[i].pairs; p; p = p->next)
            for (int s = 0; s < 2; s++)
                if (p->flow[s].head && !p->flow[s].blocked && p->flow[s].head->due_ns < next)
                    next = p->flow[s].head->due_ns;
    }
    return next;
}

/* ---- control ------------------------------------------------------------------------------------------------ */

static void say(int fd, const char *format, ...) {
    char text[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n > 0 && send(fd, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, MSG_NOSIGNAL) < 0) return;
}

static bool line_set(struct line *line, const char *key, double value) {
    if (!strcmp(key, "in_ms")) line->delay_ns[0] = (int64_t)(value * 1e6);
    else if (!strcmp(key, "out_ms")) line->delay_ns[1] = (int64_t)(value * 1e6);
    else if (!strcmp(key, "jitter_ms")) line->jitter_ns = (int64_t)(value * 1e6);
    else if (!strcmp(key, "bytes_per_s")) line->bytes_per_s = value;
    else if (!strcmp(key, "stalled")) line->stalled = value != 0;
    else if (!strcmp(key, "refusing")) {
        line->refusing = value != 0;
        if (line->refusing && line->listener.fd >= 0) {
            close(line->listener.fd);
            line->listener.fd = -1;
        } else if (!line->refusing && line->listener.fd < 0) {
            line->listener.fd = listen_on(line->listen_port);
            if (line->listener.fd < 0) return false;
            watch(&line->listener, EPOLLIN);
        }
    } else return false;
    return true;
}

static void show(int fd) {
    char text[4096] = "";
    size_t n = 0;
    for (int i = 0; i < line_count && n < sizeof text; i++) {
        const struct line *l = &lines[i];
        int open = 0;
        for (struct pair *p = l->pairs; p; p = p->next) open++;
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "%s\"%s\":{\"open\":%d,\"connections\":%llu,\"bytes_in\":%llu,\"bytes_out\":%llu,"
                              "\"stalled\":%s,\"refusing\":%s}",
                              i ? "," : "", l->name, open, (unsigned long long)l->connections,
                              (unsigned long long)l->bytes[0], (unsigned long long)l->bytes[1],
                              l->stalled ? "true" : "false", l->refusing ? "true" : "false");
    }
    say(fd, "{%s}\n", text);
}

static void command(int fd, char *text) {
    char *save = NULL, *verb = strtok_r(text, " \r", &save);
    if (!verb) return;
    if (!strcmp(verb, "show")) {
        show(fd);
        return;
    }
    char *name = strtok_r(NULL, " \r", &save);
    bool cut = !strcmp(verb, "cut"), found = false;
    if (!name || (!cut && strcmp(verb, "set") != 0)) {
        say(fd, "error unknown command %s\n", verb);
        return;
    }
    char *rest = save;
    for (int i = 0; i < line_count; i++) {
        if (strcmp(name, "*") != 0 && strcmp(name, lines[i].name) != 0) continue;
        found = true;
        if (cut) {
            for (struct pair *p = lines[i].pairs; p; p = p->next) pair_close(p, true);
            continue;
        }
        char words[512], *at = NULL;
        snprintf(words, sizeof words, "%s", rest ? rest : "");
        for (char *word = strtok_r(words, " \r", &at); word; word = strtok_r(NULL, " \r", &at)) {
            char *value = strchr(word, '='), *end = NULL;
            if (value) *value++ = 0;
            double number = value ? strtod(value, &end) : 0;
            if (!value || end == value || *end || number < 0 || !line_set(&lines[i], word, number)) {
                say(fd, "error cannot set %s of %s\n", word, lines[i].name);
                return;
            }
        }
    }
    if (found) say(fd, "ok\n");
    else say(fd, "error no line %s\n", name);
}

static void session_read(struct session *session) {
    ssize_t n = recv(session->end.fd, session->text + session->len, sizeof session->text - 1 - session->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        close(session->end.fd);
        free(session);
        return;
    }
    session->len += (size_t)n;
    session->text[session->len] = 0;
    for (char *end; (end = strchr(session->text, '\n'));) {
        *end++ = 0;
        command(session->end.fd, session->text);
        session->len = strlen(end);
        memmove(session->text, end, session->len + 1);
    }
    if (session->len == sizeof session->text - 1) session->len = 0; /* no command is that long */
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

static void control_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    struct session *session = calloc(1, sizeof *session);
    if (!session) fail("memory");
    session->end = (struct end){.kind = CONTROL, .fd = fd};
    watch(&session->end, EPOLLIN);
}

static void handle(struct end *end, uint32_t events) {
    switch (end->kind) {
    case CONTROL_LISTENER: control_accept(end->fd); break;
    case CONTROL: session_read((struct session *)((char *)end - offsetof(struct session, end))); break;
    case LISTENER: line_accept(end->line); break;
    case PEER:
        if (end->pair->dead) break;
        if (events & EPOLLOUT) end->pair->flow[1 - end->side].blocked = false;
        if (events & EPOLLERR) pair_close(end->pair, true);
        else if (events & EPOLLHUP && end->line->stalled) pair_close(end->pair, true);
        else if (events & (EPOLLIN | EPOLLHUP)) pair_read(end->pair, end->side, now_ns());
        if (!end->pair->dead && events & EPOLLHUP && end->pair->flow[end->side].finished) pair_close(end->pair, false);
        break;
    }
}

static void run(void) {
    struct epoll_event events[64];
    while (!stopping) {
        int64_t next = next_due(), now = now_ns();
        struct timespec wait = {0};
        if (next > now && next != INT64_MAX) wait = (struct timespec){(next - now) / 1000000000, (next - now) % 1000000000};
        int n = epoll_pwait2(epoll_fd, events, 64, next == INT64_MAX ? NULL : &wait, NULL);
        if (n < 0 && errno != EINTR) fail("epoll_pwait2");
        for (int i = 0; i < n; i++) handle(events[i].data.ptr, events[i].events);
        now = now_ns();
        for (int i = 0; i < line_count; i++) {
            for (struct pair *p = lines[i].pairs; p; p = p->next)
                if (!p->dead) pair_tend(p, now);
            reap(&lines[i]);
        }
    }
}

static bool port_of(const char *text, char after, uint16_t *port, const char **rest) {
    char *end = NULL;
    long value = strtol(text, &end, 10);
    if (end == text || *end != after || value < 1 || value > 65535) return false;
    *port = (uint16_t)value;
    *rest = end + 1;
    return true;
}

static bool line_parse(struct line *line, const char *text) {
    const char *equals = strchr(text, '='), *rest;
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof line->name) return false;
    memcpy(line->name, text, (size_t)(equals - text));
    return port_of(equals + 1, ':', &line->listen_port, &rest) && port_of(rest, 0, &line->target_port, &rest);
}

int main(int argc, char **argv) {
    struct end control = {.kind = CONTROL_LISTENER, .fd = -1};
    uint16_t control_port = 0;
    const char *rest;
    for (int i = 1; i < argc; i += 2) {
        bool fine = i + 1 < argc;
        if (fine && !strcmp(argv[i], "--control")) fine = port_of(argv[i + 1], 0, &control_port, &rest);
        else if (fine && !strcmp(argv[i], "--line") && line_count < MAX_LINES)
            fine = line_parse(&lines[line_count++], argv[i + 1]);
        else fine = false;
        if (!fine) {
            fprintf(stderr, "usage: %s --control PORT --line NAME=LISTEN:TARGET [--line ...]\n", argv[0]);
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll");
    if ((control.fd = listen_on(control_port)) < 0) fail("control port");
    watch(&control, EPOLLIN);
    for (int i = 0; i < line_count; i++) {
        lines[i].listener = (struct end){.kind = LISTENER, .fd = listen_on(lines[i].listen_port), .line = &lines[i]};
        if (lines[i].listener.fd < 0) fail(lines[i].name);
        watch(&lines[i].listener, EPOLLIN);
    }
    run();
    return 0;
}
