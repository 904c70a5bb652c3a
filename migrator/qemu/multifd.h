/* SPDX-License-Identifier: MIT */
/*
 * Packets of QEMU's multifd channels, the extra connections of a migration that carry most of its
 * pages. A channel begins with MULTIFD_INIT_BYTES; each packet is a head of MULTIFD_PACKET_BYTES
 * with its normal pages behind it.
 */
#ifndef QEMU_MULTIFD_H
#define QEMU_MULTIFD_H

#include <stdbool.h>
#include <stdint.h>

#define MULTIFD_MAGIC \
	0x11223344u /* a channel's first four bytes; the main channel begins with "QEVM" */
#define MULTIFD_INIT_BYTES   64
#define MULTIFD_HEAD_BYTES   12 /* of all kinds of packets: magic, version, flags */
#define MULTIFD_PACKET_BYTES 1344
#define MULTIFD_PAGES_MAX    128
#define MULTIFD_PAGE_SIZE    4096u
#define MULTIFD_PAYLOAD_MAX  (2 * MULTIFD_PAGES_MAX * MULTIFD_PAGE_SIZE)

struct multifd_init {
	uint8_t uuid[16];
	uint8_t id;
};

struct multifd_packet {
	uint32_t flags;
	bool sync; /* the channel's end of a round */
	uint32_t normal;
	uint32_t zero;	  /* machine types before 9.0 have zero pages in the main channel only */
	uint32_t payload; /* bytes behind the head: the normal pages */
	bool framed;	  /* all fields are valid, also with -ENOTSUP because of compression */
	uint64_t number;
	char name[256];			     /* of the pages' block; may be empty without pages */
	uint64_t offsets[MULTIFD_PAGES_MAX]; /* page aligned; normal pages first, then zero pages */
	const char *reason;		     /* set with an error */
};

/* Returns -EPROTO unless the bytes begin a channel of the only version there is. */
int multifd_init_parse(const uint8_t bytes[MULTIFD_INIT_BYTES], struct multifd_init *init);

/*
 * Both return -EPROTO for what is malformed, and -ENOTSUP for what can only be passed through:
 * compression, device state, flags and fields of a later version. A packet of device state has a
 * head of 276 bytes; a reader that checks the first MULTIFD_HEAD_BYTES never waits for the others.
 * Offsets are not checked against the size of the block: only the main channel tells it.
 */
int multifd_head_check(const uint8_t bytes[MULTIFD_HEAD_BYTES], const char **reason);
int multifd_packet_parse(const uint8_t bytes[MULTIFD_PACKET_BYTES], struct multifd_packet *p);

/*
 * Makes the packet one without pages: the counts and the payload are zeroed, everything else, SYNC
 * too, is kept.
 */
void multifd_packet_empty(uint8_t bytes[MULTIFD_PACKET_BYTES]);

#endif
