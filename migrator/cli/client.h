/* SPDX-License-Identifier: MIT */
/*
 * The other end of a control socket: connect, ask, wait for an answer or a signal, whichever comes
 * first.
 */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <stdint.h>

struct json_object;
struct client;

/* -ENOENT, -ECONNREFUSED, ...; the reason is printed. */
int client_connect(const char *path, struct client **client);
void client_free(struct client **client);

/* Takes the reference. */
int client_send(struct client *client, struct json_object *object);

/* {"command": @name}, for the caller to add to and to send. */
struct json_object *client_request(const char *name);

/*
 * The next object that the other end sends; the caller puts it. -EINTR when @signal_fd (-1: none)
 * became readable, -ETIMEDOUT, -ECONNRESET when the other end is gone.
 */
int client_recv(struct client *client, int signal_fd, uint64_t deadline,
		struct json_object **object);

/* Sends {"command": @name} and waits for the first answer. */
int client_ask(struct client *client, const char *name, int signal_fd, uint64_t deadline,
	       struct json_object **answer);

#endif
