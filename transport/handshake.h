/* SPDX-License-Identifier: MIT */
/*
 * The handshake's wire format. The source says hello on the control connection, the destination
 * answers with the session's identity and a secret, the source opens lanes that prove the secret,
 * and the destination says ready. The first twelve bytes of hello and answer are the same in all
 * versions of the protocol, so that versions can tell each other apart.
 */
#ifndef TRANSPORT_HANDSHAKE_H
#define TRANSPORT_HANDSHAKE_H

#include <stddef.h>
#include <stdint.h>

#include <vmferry/transport.h>

#include "transport/socket.h"

#define PROTOCOL_VERSION 2
#define SESSION_ID_BYTES 16
#define SECRET_BYTES	 32
#define MAC_BYTES	 32
#define HELLO_PREFIX	 12 /* magic 8, version 2, kind 2 */
#define HELLO_CONTROL \
	(HELLO_PREFIX + 24) /* flags 4, lanes 4, transport 4, rdma lanes 4, memory 8 */
#define HELLO_LANE    (HELLO_PREFIX + SESSION_ID_BYTES + 4 + MAC_BYTES)
#define HELLO_MAX     HELLO_LANE
#define ANSWER_PREFIX 12 /* magic 8, version 2, status 2 */
#define RAIL_BYTES    24 /* family 2 (4 or 6), port 2, scope 4, address 16 */
#define ANSWER_BYTES \
	(ANSWER_PREFIX + SESSION_ID_BYTES + SECRET_BYTES + 16 + VMFERRY_RAILS_MAX * RAIL_BYTES)
#define READY_BYTES 12 /* an answer's prefix */

/* Where the lanes go when that is not the address of the control connection. */
struct lane_addresses {
	unsigned int rail_count;
	struct address rails[VMFERRY_RAILS_MAX];
};

enum hello_kind {
	HELLO_KIND_CONTROL = 1,
	HELLO_KIND_LANE = 2,
};

enum answer_status {
	ANSWER_OK,
	ANSWER_VERSION,
	ANSWER_TRANSPORT,
};

/* Why the destination chose the transport that it answers with. */
enum answer_reason {
	REASON_SOURCE,	    /* the source asked for it */
	REASON_DESTINATION, /* the destination's options ask for it */
	REASON_BOTH,	    /* both have RDMA */
	REASON_NO_DEVICE,   /* the destination has no RDMA device */
	REASON_MEMLOCK,	    /* the destination may not pin so much memory */
};

struct hello_prefix {
	uint16_t version;
	uint16_t kind;
};

struct hello_control {
	uint32_t flags; /* none are defined: 0 */
	uint32_t lanes;
	uint32_t transport;
	uint32_t rdma_lanes; /* if it comes to be RDMA */
	uint64_t memory;     /* bytes that will be written to, 0: not known */
};

struct hello_lane {
	uint8_t session[SESSION_ID_BYTES];
	uint32_t number;
	uint8_t mac[MAC_BYTES];
};

struct answer {
	uint16_t version;
	uint16_t status;
	uint8_t session[SESSION_ID_BYTES];
	uint8_t secret[SECRET_BYTES];
	uint32_t lanes;
	uint32_t transport;
	uint32_t reason;
	struct lane_addresses addresses;
};

/*
 * Encoders fill the whole message, prefix included; decoders of bodies get what stands behind the
 * prefix.
 */
void hello_control_encode(const struct hello_control *hello, uint8_t bytes[HELLO_CONTROL]);
void hello_lane_encode(const struct hello_lane *hello, uint8_t bytes[HELLO_LANE]);
void answer_prefix_encode(enum answer_status status, uint8_t bytes[ANSWER_PREFIX]);
void answer_encode(const struct answer *answer, uint8_t bytes[ANSWER_BYTES]);

/* -EPROTO if the magic is another. Version and kind are the caller's to judge. */
int hello_prefix_decode(const uint8_t bytes[HELLO_PREFIX], struct hello_prefix *prefix);
void hello_control_decode(const uint8_t *body, struct hello_control *hello);
void hello_lane_decode(const uint8_t *body, struct hello_lane *hello);
int answer_prefix_decode(const uint8_t bytes[ANSWER_PREFIX], struct answer *answer);
/* -EPROTO if its rails make no sense. */
int answer_decode(const uint8_t *body, struct answer *answer);

/* Bytes of a whole hello of this kind, 0 if there is no such kind. */
size_t hello_bytes(uint16_t kind);

/* A session's identity and secret, from the system's random numbers. */
int handshake_random(uint8_t session[SESSION_ID_BYTES], uint8_t secret[SECRET_BYTES]);

/*
 * Proves (source) and checks (destination, in constant time, -EACCES) that a lane knows the
 * session's secret.
 */
int lane_prove(const uint8_t secret[SECRET_BYTES], struct hello_lane *hello);
int lane_check(const uint8_t secret[SECRET_BYTES], const struct hello_lane *hello);

#endif
