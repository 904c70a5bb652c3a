/* SPDX-License-Identifier: MIT */
/* What a relay needs of its connections; see relay.h for what others do with them. */
#ifndef QEMU_CONNECTION_H
#define QEMU_CONNECTION_H

#include "relay.h"

/* @fd is the connection's on success. */
int connection_new(struct relay *relay, int fd, struct connection **connection);

/* Starts its threads. An error has ended the relay. */
int connection_start(struct connection *c);

/* A message of the peer that concerns it, BYTES, CLOSE, CREDIT or FENCE; may take the data over. */
int connection_message(struct connection *c, struct vmferry_message *message);

/* Waits for its threads, once the relay is over. */
void connection_join(struct connection *c);
void connection_free(struct connection **connection);

#endif
