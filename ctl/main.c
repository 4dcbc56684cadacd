/* antipode: the operator's tool. */
#include <stdio.h>
#include <string.h>
#include "common/version.h"
#include "ctl/commands.h"

static const struct ap_command commands[] = {
    {"status", "which region lags, and why", ap_cmd_status, ap_help_status},
    {"lag", "how far each region is behind each origin, by partition", ap_cmd_lag, ap_help_lag},
    {"cat", "the records of a topic, decoded, as JSON lines", ap_cmd_cat, ap_help_cat},
    {"verify", "whether regions hold the same rows; and repair", ap_cmd_verify, ap_help_verify},
    {"region", "each region's state; read-only, drain, retire", ap_cmd_region, ap_help_region},
    {"dlq", "dead letters: list, show, redrive", ap_cmd_dlq, ap_help_dlq},
    {"load", "a file of vectors into a collection", ap_cmd_load, ap_help_load},
    {"snapshot", "copies of a store: create, list, verify, restore", ap_cmd_snapshot, ap_help_snapshot},
    {"rebuild", "a store and its index anew from the logs, beside those that serve", ap_cmd_rebuild, ap_help_rebuild},
    {"recall", "how many of the exact answers a region's index finds, and how fast", ap_cmd_recall, ap_help_recall},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const struct ap_command *find(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static void print_usage(FILE *out)
{
    fputs("usage: antipode COMMAND [OPTIONS]\n\n", out);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("  help       this text; help COMMAND: that of a command\n\n"
          "Data goes to stdout, diagnostics to stderr. Exit codes: 0 done, 1 failed or not well, 2 usage.\n", out);
}

static int help(const char *name)
{
    const struct ap_command *command = name ? find(name) : NULL;
    if (command)
        fputs(command->help, stdout);
    else
        print_usage(name ? stderr : stdout);
    return name && !command ? 2 : 0;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h"))
        return help(argc > 2 ? argv[2] : NULL);
    if (!strcmp(name, "--version")) {
        puts("antipode " ANTIPODE_VERSION);
        return 0;
    }
    const struct ap_command *command = find(name);
    if (command)
        return command->run(argc - 1, argv + 1);
    if (*name)
        fprintf(stderr, "antipode: there is no command \"%s\"\n", name);
    print_usage(stderr);
    return 2;
}
