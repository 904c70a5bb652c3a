/* SPDX-License-Identifier: MIT */
/* The subcommands. Each file run.c, receive.c, ... defines one; main.c finds it by its name. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "log.h"
#include "option.h"

/* What main() lends to a command. */
struct cli {
	struct log log;
};

extern const struct command command_demo;
extern const struct command command_run;
extern const struct command command_receive;
extern const struct command command_migrate;
extern const struct command command_check;
extern const struct command command_qemu_send;
extern const struct command command_qemu_receive;
extern const struct command command_qemu_migrate;

/* In the order in which they are listed; NULL at the end. */
extern const struct command *const commands[];

#endif
