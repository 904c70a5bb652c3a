/* SPDX-License-Identifier: MIT */
/* Any packet of a multifd channel. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "migrator/qemu/multifd.h"
#include "must.h"

static void expect_sound(const struct multifd_packet *p, int ret)
{
	must(p->normal <= MULTIFD_PAGES_MAX && p->zero <= MULTIFD_PAGES_MAX - p->normal);
	must(p->payload <= MULTIFD_PAYLOAD_MAX);
	must(ret != 0 || p->payload == p->normal * MULTIFD_PAGE_SIZE);
	must(memchr(p->name, '\0', sizeof(p->name)) != NULL);
	must(p->normal + p->zero == 0 || p->name[0] != '\0');
	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		must(p->offsets[i] % MULTIFD_PAGE_SIZE == 0);
}

static void expect_empty(const uint8_t *data, const struct multifd_packet *p)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES];
	struct multifd_packet empty;

	memcpy(bytes, data, sizeof(bytes));
	multifd_packet_empty(bytes);
	must(multifd_packet_parse(bytes, &empty) == 0);
	must(empty.normal == 0 && empty.zero == 0 && empty.payload == 0);
	must(empty.sync == p->sync && empty.number == p->number);
	must(strcmp(empty.name, p->name) == 0);
}

static void one_packet(const uint8_t *data)
{
	struct multifd_packet p;
	const char *reason;
	int head = multifd_head_check(data, &reason), ret;

	memset(&p, 0xa5, sizeof(p));
	ret = multifd_packet_parse(data, &p);
	must(ret == 0 || ret == -EPROTO || ret == -ENOTSUP);
	must((ret == 0) == (p.reason == NULL) && (head == 0) == (reason == NULL));
	must(ret != 0 || head == 0);
	must(!p.framed || ret != -EPROTO);
	must(ret != 0 || p.framed);
	if (p.framed)
		expect_sound(&p, ret);
	if (ret == 0)
		expect_empty(data, &p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct multifd_init init;

	if (size >= MULTIFD_PACKET_BYTES)
		one_packet(data);
	else if (size >= MULTIFD_INIT_BYTES && multifd_init_parse(data, &init) == 0)
		must(init.id == data[24] && memcmp(init.uuid, data + 8, 16) == 0);
	return 0;
}
