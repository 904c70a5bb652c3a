/* SPDX-License-Identifier: MIT */
/*
 * One TCP connection to a process of the host, for as long as the guest lives: records with a
 * sequence number and content in both directions. It is never opened a second time, so that a
 * connection which does not survive shows as an error.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

#define PERIOD_NS  (5 * NS_PER_MS)
#define RECORD	   64
#define GUEST_SEED 1
#define HOST_SEED  2
#define CONNECT_S  60

static int connect_peer(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons((uint16_t)option("work_port", 0)),
				      .sin_addr.s_addr = htonl((uint32_t)option("work_peer", 0))};
	int64_t deadline = clock_ns(CLOCK_MONOTONIC) + CONNECT_S * NS_PER_S;
	int yes = 1;
	int fd;

	for (;;) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			break;
		if (clock_ns(CLOCK_MONOTONIC) > deadline)
			die("peer: no connection: %s", strerror(errno));
		close(fd);
		sleep_ns(100 * NS_PER_MS);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fd;
}

/* Sends the rest of the record that is under way, or a new one. False: the connection is lost. */
static bool send_record(int fd)
{
	static unsigned char record[RECORD];
	static size_t done = RECORD;
	ssize_t n;

	if (done == RECORD) {
		fill(record, RECORD, seed_of(GUEST_SEED, counters.sent));
		done = 0;
	}
	n = send(fd, record + done, RECORD - done, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN) {
		report_error("peer: send after %llu records: %s", (unsigned long long)counters.sent,
			     strerror(errno));
		return false;
	}
	if (n > 0)
		done += (size_t)n;
	if (done == RECORD)
		counters.sent++;
	return true;
}

/* Takes what has arrived. False: the connection is lost, or brings what was not sent. */
static bool receive_records(int fd)
{
	static unsigned char record[RECORD];
	static size_t done;
	ssize_t n;

	while ((n = recv(fd, record + done, RECORD - done, MSG_DONTWAIT)) > 0) {
		done += (size_t)n;
		if (done < RECORD)
			continue;
		done = 0;
		if (find_difference(record, RECORD, seed_of(HOST_SEED, counters.received)) !=
		    RECORD) {
			report_error("peer: record %llu is not the one that was sent",
				     (unsigned long long)counters.received);
			return false;
		}
		counters.received++;
	}
	if (n < 0 && errno == EAGAIN)
		return true;
	report_error("peer: connection lost after %llu records: %s",
		     (unsigned long long)counters.received, n == 0 ? "closed" : strerror(errno));
	return false;
}

void *peer_work(void *arg)
{
	int fd = connect_peer();

	while (send_record(fd) && receive_records(fd))
		sleep_ns(PERIOD_NS);
	close(fd);
	return arg;
}
