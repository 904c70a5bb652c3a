/* SPDX-License-Identifier: MIT */
/*
 * A migration driven over a control socket, from the request to the report: what migrate and demo
 * share.
 */
#ifndef CLI_DRIVE_H
#define CLI_DRIVE_H

#include "client.h"
#include "settings.h"

/*
 * Asks @client's process to migrate its guest to @uri, shows the progress, turns a signal into a
 * cancel, and waits for the end. The exit status; *@report is the report, NULL if there was none,
 * and then the reason was printed.
 */
int drive_migration(struct client *client, const char *uri,
		    const struct migration_settings *settings, int signal_fd,
		    struct json_object **report);

#endif
