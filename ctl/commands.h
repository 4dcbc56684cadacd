/* The commands of `antipode`. Each gets the arguments from its own name on and returns the exit code: 0 done, 1 failed (or:
 * something is not well), 2 usage. Data goes to stdout, everything else to stderr. */
#ifndef ANTIPODE_CTL_COMMANDS_H
#define ANTIPODE_CTL_COMMANDS_H

struct ap_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
    const char *help; /* the whole text of `antipode <name> --help` */
};

int ap_cmd_status(int argc, char **argv);
int ap_cmd_lag(int argc, char **argv);
int ap_cmd_cat(int argc, char **argv);
int ap_cmd_verify(int argc, char **argv);
int ap_cmd_dlq(int argc, char **argv);
int ap_cmd_region(int argc, char **argv);
int ap_cmd_load(int argc, char **argv);
int ap_cmd_snapshot(int argc, char **argv);
int ap_cmd_rebuild(int argc, char **argv);
int ap_cmd_recall(int argc, char **argv);

extern const char ap_help_status[], ap_help_lag[], ap_help_cat[], ap_help_verify[], ap_help_dlq[], ap_help_load[],
    ap_help_region[];
extern const char ap_help_snapshot[], ap_help_rebuild[], ap_help_recall[];

#endif
