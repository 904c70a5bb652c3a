/* SPDX-License-Identifier: MIT */
/* The live line of a migration on a terminal; nothing where standard error is not one. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

struct json_object;

void progress_show(struct json_object *progress);
void progress_clear(void);

#endif
