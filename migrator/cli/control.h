/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a process that has a guest, or waits for one: a unix stream socket of mode
 * 0600 that takes JSON lines. Several clients may be connected. Nothing that a client sends can
 * harm the guest: what is not a request is answered with an error and the connection is closed; a
 * client that does not read its answers is dropped.
 */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include <stdint.h>

struct json_object;
struct control;

#define CONTROL_LINE_MAX (64u << 10)

/*
 * @client names a connection; the number is never used again, so that an answer to one that is gone
 * goes nowhere.
 */
typedef void (*control_fn)(void *ctx, uint64_t client, struct json_object *request);

/*
 * Binds and listens; a path that a dead process has left is taken over. The reason of an error is
 * printed.
 */
int control_listen(const char *path, int *fd);

/* Takes over @listen_fd, and @path to unlink it in the end. */
int control_new(int listen_fd, const char *path, struct control **control);
void control_free(struct control **control);

/* Readable when control_serve() has something to do. */
int control_fd(const struct control *control);
void control_serve(struct control *control, control_fn fn, void *ctx);

/* Sends an object; takes the reference. */
void control_send(struct control *control, uint64_t client, struct json_object *object);
void control_send_error(struct control *control, uint64_t client, const char *message);

#endif
