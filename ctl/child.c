#include "ctl/child.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/timeutil.h"

enum { ARGS_MAX = 64, STOP_MS = 20000, LOG_END = 300 };

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -1;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        port = ntohs(at.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

static void become(const char *path, const char *log, const char **argv, pid_t parent)
{
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
    }
    execv(path, (char *const *)(uintptr_t)argv);
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    _exit(127);
}

int ap_child_start(struct ap_child *c, const char *binary, const char *log, const char *const *argv, struct ap_err *err)
{
    char path[AP_PATH_MAX], listen[32];
    const char *args[ARGS_MAX];
    size_t n = 0;
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 64);
    path[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(path, '/');
    snprintf(slash ? slash + 1 : path, 64, "%s", binary);
    int port = free_port();
    if (port < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "no free port: %s", strerror(errno));
    snprintf(listen, sizeof listen, "127.0.0.1:%d", port);
    snprintf(c->url, sizeof c->url, "http://%s", listen);
    snprintf(c->log, sizeof c->log, "%s", log);
    c->binary = binary;
    args[n++] = path;
    for (size_t i = 0; argv[i] && n < ARGS_MAX - 3; i++)
        args[n++] = argv[i];
    args[n++] = "--http.listen";
    args[n++] = listen;
    args[n] = NULL;
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid == 0)
        become(path, log, args, parent);
    return c->pid > 0 ? 0 : ap_err_set(err, AP_EIO, AP_FATAL, "cannot start %s: %s", path, strerror(errno));
}

int ap_child_check(struct ap_child *c, struct ap_err *err)
{
    char end[LOG_END + 1] = "";
    if (c->pid <= 0 || waitpid(c->pid, NULL, WNOHANG) == 0)
        return 0;
    c->pid = 0;
    int fd = open(c->log, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        off_t size = lseek(fd, 0, SEEK_END);
        ssize_t n = pread(fd, end, LOG_END, size > LOG_END ? size - LOG_END : 0);
        end[n > 0 ? n : 0] = '\0';
        close(fd);
    }
    for (char *p = end + strlen(end); p > end && p[-1] == '\n';)
        *--p = '\0';
    const char *last = strrchr(end, '\n');
    return ap_err_set(err, AP_EIO, AP_FATAL, "%s has ended (log: %s): %s", c->binary, c->log, last ? last + 1 : end);
}

void ap_child_ask(struct ap_child *c)
{
    if (c->pid > 0)
        kill(c->pid, SIGTERM);
}

void ap_child_stop(struct ap_child *c)
{
    if (c->pid <= 0)
        return;
    int64_t until = ap_mono_ms() + STOP_MS;
    kill(c->pid, SIGTERM);
    while (waitpid(c->pid, NULL, WNOHANG) == 0) {
        if (ap_mono_ms() >= until) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, NULL, 0);
            break;
        }
        usleep(5000);
    }
    c->pid = 0;
}
