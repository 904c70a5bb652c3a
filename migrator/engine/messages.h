/* SPDX-License-Identifier: MIT */
/*
 * What the two engines say to each other: the types, and each message's fields packed and unpacked.
 * Integers are little-endian. Unpacking checks every length and count before use and returns
 * -EPROTO, logged, for anything unsound.
 *
 *   source                    destination
 *   OFFER      ------------>             what is to come
 *              <------------  VERDICT    no problems, or all of them
 *   REHEARSE   ------------>             the state as it is now, loaded and thrown away
 *              <------------  REHEARSED
 *   PING       <----------->  PONG       all the time, both liveness and round trip
 *   HASH       ------------>             --verify: hash what this fence has placed, the first
 *              <------------  HASHED     time all, then what RESENT named; until little is left
 *   ARM        ------------>             the number of the last fence
 *              <------------  ARMED
 *   RESENT     ------------>             --verify: sent since the fence of the last HASH
 *   STATE      ------------>             mailbox, while the last pages travel on the lanes
 *              <------------  READY
 *   GO         ------------>             the commit point
 *              <------------  RUNNING
 *              <------------  HASHES     --verify
 *              <------------  CLOSING
 *   ABORT      <----------->             instead of any of these before GO
 *
 *   QUERY      ------------>             in a session of its own: who owns the guest?
 *              <------------  ANSWER
 *
 *   REJOIN     ------------>             instead of OFFER, when the session was lost between
 *              <------------  REJOINED   VERDICT and GO: it is closed there, nothing comes by it
 *                                        any more; on from behind VERDICT
 */
#ifndef ENGINE_MESSAGES_H
#define ENGINE_MESSAGES_H

#include <stdint.h>

#include <vmferry/migration.h>

#include "common/wire.h"
#include "content.h"

#define ENGINE_VERSION	    2
#define MIGRATION_ID_BYTES  16
#define REJOIN_SECRET_BYTES 32
#define OFFER_EXTENTS_MAX   65536u
#define RECONNECT_MAX_NS    3600000000000ull
#define MESSAGE_WORDS_MAX   65536u /* words of a RESENT or hashes of a HASHES message */
#define CLOSING_WORDS_MAX   65536u
#define PROBLEM_TEXT_MAX    4096u

/*
 * The first pass ends with this fence. --verify may set more; the last one is the number that ARM
 * carries.
 */
#define FENCE_FIRST_PASS 1u

/*
 * From ARM on both sides spin instead of sleeping, for as long as a switchover can reasonably take.
 */
#define BUSY_POLL_NS 500000000ull

/* Numbers are part of the protocol. */
enum message_type {
	MESSAGE_OFFER = 1,
	MESSAGE_VERDICT = 2,
	MESSAGE_REHEARSE = 3,
	MESSAGE_REHEARSED = 4,
	MESSAGE_PING = 5,
	MESSAGE_PONG = 6,
	MESSAGE_HASH = 7,
	MESSAGE_HASHED = 8,
	MESSAGE_ARM = 9,
	MESSAGE_ARMED = 10,
	MESSAGE_RESENT = 11,
	MESSAGE_STATE = 12,
	MESSAGE_READY = 13,
	MESSAGE_GO = 14,
	MESSAGE_RUNNING = 15,
	MESSAGE_HASHES = 16,
	MESSAGE_CLOSING = 17,
	MESSAGE_ABORT = 18,
	MESSAGE_QUERY = 19,
	MESSAGE_ANSWER = 20,
	MESSAGE_REJOIN = 21,
	MESSAGE_REJOINED = 22,
};

/* "offer", ...; "unknown" for others. */
const char *message_name(uint32_t type);

struct offer_region {
	uint64_t address;
	uint64_t size;
};

struct offer_extent {
	uint32_t region;
	struct content_extent extent;
};

struct offer {
	uint16_t version;
	uint32_t page_size;
	bool verify;
	uint8_t id[MIGRATION_ID_BYTES];
	uint8_t secret[REJOIN_SECRET_BYTES]; /* who knows it may go on with this migration */
	uint64_t reconnect_ns; /* how long the destination waits for that; 0: not at all */
	uint32_t region_count;
	struct offer_region regions[VMFERRY_REGIONS_MAX];
	uint32_t extent_count;
	struct offer_extent *extents; /* freed by offer_free() */
	const void *spec;	      /* in the message */
	size_t spec_length;
};

int offer_pack(const struct offer *offer, struct vmferry_blob *blob);

/*
 * @offer points into @message, which must outlive it. An offer of another version unpacks with only
 * @version set, so that the difference can be told. The extents are sound: inside their regions, in
 * order, and disjoint.
 */
int offer_unpack(const struct vmferry_message *message, struct offer *offer);
void offer_free(struct offer *offer);

int verdict_pack(const struct vmferry_problems *problems, struct vmferry_blob *blob);
int verdict_unpack(const struct vmferry_message *message, struct vmferry_problems *problems);

/* Times in nanoseconds, in the order in which they pass. */
struct destination_times {
	uint64_t fence_ns; /* STATE received until the last fence */
	uint64_t hash_ns;
	uint64_t load_ns;
	uint64_t go_ns;	 /* READY sent until GO received */
	uint64_t run_ns; /* until run() had returned */
};

int times_pack(const struct destination_times *times, struct vmferry_blob *blob);
int times_unpack(const struct vmferry_message *message, struct destination_times *times);

struct closing {
	uint64_t populate_ns;
	uint64_t lanes_cpu_ns;
	uint64_t control_cpu_ns;
	uint64_t placed_bytes; /* 0: not counted there */
	const void *words;     /* in the message */
	size_t words_length;
};

int closing_pack(const struct closing *closing, struct vmferry_blob *blob);
int closing_unpack(const struct vmferry_message *message, struct closing *closing);

/* A piece of a table of 64-bit words: bits of pages (RESENT) or hashes (HASHES). */
struct words {
	uint32_t region;
	uint64_t first;
	uint32_t count;
	const uint8_t *at; /* in the message; little-endian, see wire_get() */
};

int words_pack(uint32_t region, uint64_t first, const uint64_t *words, uint32_t count,
	       struct vmferry_blob *blob);
int words_unpack(const struct vmferry_message *message, struct words *words);

struct rejoin {
	uint8_t id[MIGRATION_ID_BYTES];
	uint8_t secret[REJOIN_SECRET_BYTES];
};

int rejoin_unpack(const struct vmferry_message *message, struct rejoin *rejoin);

enum owner {
	OWNER_UNKNOWN = 0, /* this process has never heard of the migration */
	OWNER_HERE = 1,	   /* the guest runs, or ran, at the destination */
	OWNER_ABORTED = 2, /* the destination has given it up and will refuse a late GO */
};

/*
 * One number: ANSWER, HASH and ARM (fence), HASHED and REHEARSED (nanoseconds), PING and PONG
 * (cookie).
 */
int number_unpack(const struct vmferry_message *message, uint64_t *number);

/* Sends a packed message; frees the blob and zeroes the pointer in any case. */
int message_send(struct vmferry_session *session, enum vmferry_channel channel, uint32_t type,
		 struct vmferry_blob **blob, uint64_t deadline);

/* The same for a message that is one number. */
int message_send_number(struct vmferry_session *session, enum vmferry_channel channel,
			uint32_t type, uint64_t number, uint64_t deadline);

/* The text of an ABORT, fit for logs and terminals: no control characters, cut to @size. */
void message_text(const struct vmferry_message *message, char *text, size_t size);

/*
 * Logs what came instead of what was expected; -EPROTO, or -ECONNABORTED with its reason for an
 * ABORT.
 */
int message_unexpected(const char *who, const struct vmferry_message *message,
		       const char *expected);

/*
 * Whether @error is one of the connection, which another one may not have: not what a peer that is
 * broken, or refuses, is answered with.
 */
bool error_is_of_connection(int error);

/*
 * For a report: what the session, if there is one, says of its failure, or else what the error
 * means.
 */
const char *failure_text(const struct vmferry_session *session, int error);

#endif
