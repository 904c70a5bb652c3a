/* SPDX-License-Identifier: MIT */
/*
 * What the exit status of every subcommand says. The manual page and README.md list the same
 * numbers.
 */
#ifndef CLI_EXIT_H
#define CLI_EXIT_H

enum exit_code {
	EXIT_COMPLETED = 0,
	EXIT_FAILED = 1, /* a guest that was to be migrated runs on at the source */
	EXIT_USAGE = 2,
	EXIT_CANCELLED = 3, /* the guest runs on at the source */
	EXIT_INDETERMINATE = 4,
	EXIT_DIFFERENT = 5, /* verification, or the guest itself, found a difference */
	EXIT_UNABLE = 6,    /* this host cannot */
};

#endif
