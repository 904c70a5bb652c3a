/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "bytes.h"
#include "multifd.h"

#define VERSION		      1u
#define FLAG_SYNC	      0x01u
#define FLAGS_COMPRESSION     0x3eu
#define FLAG_DEVICE_STATE     0x40u
#define INIT_UUID	      8
#define INIT_ID		      24
#define PACKET_FLAGS	      8
#define PACKET_ALLOCATED      12
#define PACKET_NORMAL	      16
#define PACKET_PAYLOAD	      20
#define PACKET_NUMBER	      24
#define PACKET_ZERO	      32
#define PACKET_RESERVED	      36
#define PACKET_RESERVED_BYTES 28
#define PACKET_NAME	      64
#define PACKET_OFFSETS	      320

_Static_assert(PACKET_RESERVED + PACKET_RESERVED_BYTES == PACKET_NAME, "fields follow each other");
_Static_assert(PACKET_OFFSETS + 8 * MULTIFD_PAGES_MAX == MULTIFD_PACKET_BYTES, "no byte is left");

int multifd_init_parse(const uint8_t bytes[MULTIFD_INIT_BYTES], struct multifd_init *init)
{
	if (be32_get(bytes) != MULTIFD_MAGIC || be32_get(bytes + 4) != VERSION)
		return -EPROTO;
	memcpy(init->uuid, bytes + INIT_UUID, sizeof(init->uuid));
	init->id = bytes[INIT_ID];
	return 0;
}

int multifd_head_check(const uint8_t bytes[MULTIFD_HEAD_BYTES], const char **reason)
{
	uint32_t flags = be32_get(bytes + PACKET_FLAGS);

	*reason = "multifd: malformed packet";
	if (be32_get(bytes) != MULTIFD_MAGIC || be32_get(bytes + 4) != VERSION)
		return -EPROTO;
	*reason = NULL;
	if (flags & FLAG_DEVICE_STATE)
		*reason = "multifd: device state";
	else if (flags & FLAGS_COMPRESSION)
		*reason = "multifd: compression";
	else if (flags & ~FLAG_SYNC)
		*reason = "multifd: unknown flags of a packet";
	return *reason != NULL ? -ENOTSUP : 0;
}

static int malformed(struct multifd_packet *p, const char *reason)
{
	p->reason = reason;
	return -EPROTO;
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
	while (length > 0 && bytes[length - 1] == 0)
		length--;
	return length == 0;
}

/*
 * A packet with nothing but SYNC may say 0 for the pages it has room for; its length is the same
 * nevertheless. QEMU before 9.0 leaves the last packet's payload in one without normal pages.
 */
static int parse_counts(const uint8_t *bytes, struct multifd_packet *p)
{
	uint32_t allocated = be32_get(bytes + PACKET_ALLOCATED);

	p->normal = be32_get(bytes + PACKET_NORMAL);
	p->zero = be32_get(bytes + PACKET_ZERO);
	p->payload = p->normal > 0 ? be32_get(bytes + PACKET_PAYLOAD) : 0;
	if (allocated > MULTIFD_PAGES_MAX || p->normal > allocated ||
	    p->zero > allocated - p->normal)
		return malformed(p, "multifd: a packet of too many pages");
	if (p->payload > MULTIFD_PAYLOAD_MAX ||
	    ((p->flags & FLAGS_COMPRESSION) == 0 && p->payload != p->normal * MULTIFD_PAGE_SIZE))
		return malformed(p, "multifd: a packet's payload is not that of its pages");
	return 0;
}

static int parse_pages(const uint8_t *bytes, struct multifd_packet *p)
{
	memcpy(p->name, bytes + PACKET_NAME, sizeof(p->name));
	if (memchr(p->name, '\0', sizeof(p->name)) == NULL)
		return malformed(p, "multifd: the name of a block does not end");
	if (p->normal + p->zero > 0 && p->name[0] == '\0')
		return malformed(p, "multifd: pages of a block without a name");
	for (uint32_t i = 0; i < p->normal + p->zero; i++) {
		p->offsets[i] = be64_get(bytes + PACKET_OFFSETS + 8 * (size_t)i);
		if (p->offsets[i] % MULTIFD_PAGE_SIZE != 0)
			return malformed(p, "multifd: the offset of a page is not aligned");
	}
	return 0;
}

int multifd_packet_parse(const uint8_t bytes[MULTIFD_PACKET_BYTES], struct multifd_packet *p)
{
	int head = multifd_head_check(bytes, &p->reason);
	int ret;

	p->framed = false;
	p->flags = be32_get(bytes + PACKET_FLAGS);
	p->sync = p->flags & FLAG_SYNC;
	if (head == -EPROTO || (p->flags & ~(FLAG_SYNC | FLAGS_COMPRESSION)) != 0)
		return head;
	if (!all_zero(bytes + PACKET_RESERVED, PACKET_RESERVED_BYTES)) {
		p->reason = "multifd: unknown fields of a packet";
		return -ENOTSUP;
	}
	p->number = be64_get(bytes + PACKET_NUMBER);
	ret = parse_counts(bytes, p);
	if (ret == 0)
		ret = parse_pages(bytes, p);
	if (ret < 0)
		return ret;
	p->framed = true;
	return head;
}

void multifd_packet_empty(uint8_t bytes[MULTIFD_PACKET_BYTES])
{
	be32_put(bytes + PACKET_NORMAL, 0);
	be32_put(bytes + PACKET_PAYLOAD, 0);
	be32_put(bytes + PACKET_ZERO, 0);
}
