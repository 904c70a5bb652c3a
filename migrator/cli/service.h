/* SPDX-License-Identifier: MIT */
/*
 * systemd's protocols for services: a socket that is passed, and notifications of readiness, of the
 * end, and for the watchdog. Without a service manager all of this does nothing.
 */
#ifndef CLI_SERVICE_H
#define CLI_SERVICE_H

#include <stdint.h>

struct service {
	const char *command;	 /* for messages */
	uint64_t alive_every_ns; /* 0: nobody watches */
	uint64_t alive_ns;	 /* when the last sign of life was sent */
};

/* @command must outlive it. */
void service_open(struct service *service, const char *command);

#define SERVICE_PATH_MAX 108 /* of sockaddr_un */

/*
 * The passed unix socket, made non-blocking, and the path that it is bound to. -ENOENT: none was
 * passed. -EINVAL: it is not one listening socket with a path; the reason is printed.
 */
int service_socket(const struct service *service, char path[SERVICE_PATH_MAX], int *fd);

/* The service is up. The manager shows @status. */
void service_ready(const struct service *service, const char *status);

/*
 * For the main loop, in each turn; sends a sign of life when half of the watchdog's time has passed
 * since the last one.
 */
void service_alive(void *service);

/* The service has begun to end. */
void service_stopping(const struct service *service);

#endif
