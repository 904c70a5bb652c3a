/* SPDX-License-Identifier: MIT */
/* The table of subcommands. */
#include "command.h"

const struct command *const commands[] = {
	&command_demo,	       &command_run,	      &command_receive,
	&command_migrate,      &command_check,	      &command_qemu_send,
	&command_qemu_receive, &command_qemu_migrate, NULL,
};
