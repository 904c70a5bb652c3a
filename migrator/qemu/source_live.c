/* SPDX-License-Identifier: MIT */
/*
 * Live mode: pages are written straight from the source QEMU's memory, not from what was read of
 * the stream. A copy that is made later is newer, and safe: QEMU clears a page's dirty bit before
 * it reads the page, so that it sends a page again that changes afterwards. What makes it unsafe is
 * looked for before the first page:
 *
 * - xbzrle, which sends nothing for a page that has come to equal an older copy again, while a copy
 * in between was written here;
 * - a balloon, whose pages are taken from under a registration: the NIC would go on reading the old
 * ones.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moment.h"
#include "process.h"
#include "qmp.h"
#include "source_state.h"

#define QMP_NS (5 * NS_PER_S)

/*
 * Where the blocks are in the session, out of the way of all else: the addresses of a source mean
 * nothing to the peer.
 */
static uint64_t live_address(unsigned int block)
{
	return (uint64_t)(2 * STREAM_BLOCKS_MAX + block) << 44;
}

static bool is_capability(struct json_object *capabilities, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(capabilities); i++) {
		struct json_object *c = json_object_array_get_idx(capabilities, i);
		struct json_object *text = NULL, *state = NULL;

		json_object_object_get_ex(c, "capability", &text);
		json_object_object_get_ex(c, "state", &state);
		if (text != NULL && strcmp(json_object_get_string(text), name) == 0)
			return json_object_get_boolean(state);
	}
	return false;
}

/* NULL when it is safe, else why not. */
static const char *find_danger(struct qmp *qmp)
{
	uint64_t deadline = vmferry_now() + QMP_NS;
	struct json_object *result = NULL;
	const char *why = NULL;
	int ret = qmp_execute(qmp, "query-migrate-capabilities", NULL, deadline, &result);

	if (ret < 0 || !json_object_is_type(result, json_type_array))
		why = "QEMU does not tell its migration capabilities";
	else if (is_capability(result, "xbzrle"))
		why = "xbzrle is on";
	json_object_put(result);
	if (why != NULL)
		return why;
	/* Refused when there is no such device. */
	result = NULL;
	ret = qmp_ask(qmp, "query-balloon", NULL, deadline, &result);
	json_object_put(result);
	if (ret == 0)
		return "the guest has a balloon, which takes pages from under the NIC";
	return ret == -EREMOTEIO ? NULL : "QEMU does not tell whether there is a balloon";
}

/*
 * The memory of all blocks that are mapped at the destination has to be shared with this process.
 */
static int open_blocks(struct qemu_source *s, struct qmp *qmp)
{
	struct placement_block *blocks = calloc(STREAM_BLOCKS_MAX, sizeof(*blocks));
	struct qemu_process process = {.pidfd = -1};
	unsigned int count = s->stream.block_count;
	int ret = -ENOMEM;

	s->live = calloc(STREAM_BLOCKS_MAX, sizeof(*s->live));
	if (blocks != NULL && s->live != NULL)
		ret = qemu_process_of_socket(qmp_fd(qmp), &process);
	for (unsigned int i = 0; ret == 0 && i < count; i++) {
		memcpy(blocks[i].name, s->stream.blocks[i].name, sizeof(blocks[i].name));
		blocks[i].bytes = s->stream.blocks[i].bytes;
	}
	if (ret == 0)
		ret = placement_find(&process, qmp, PLACEMENT_WISH_MAPPED, blocks, count, s->live);
	if (ret == 0)
		s->live_count = count;
	qemu_process_close(&process);
	free(blocks);
	return ret;
}

static int register_blocks(struct qemu_source *s)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < s->live_count; i++) {
		struct offload_target *t = &s->offload.targets[i];

		if (t->kind == PLACEMENT_FORWARD)
			continue;
		if (t->kind != PLACEMENT_MAPPED)
			return relay_fail(
				&s->relay, -ENOTSUP,
				"no live source: block '%.60s' is not mapped at the destination",
				s->live[i].name);
		if (s->live[i].kind != PLACEMENT_MAPPED)
			return relay_fail(&s->relay, -ENOTSUP, "no live source: block '%.60s': %s",
					  s->live[i].name, s->live[i].reason);
		ret = vmferry_register(s->relay.session, s->live[i].base, s->live[i].bytes,
				       live_address(i), VMFERRY_ACCESS_LOCAL, &t->live);
		if (ret < 0)
			relay_fail(&s->relay, ret, "block '%.60s' cannot be registered: %s",
				   s->live[i].name, strerror(-ret));
	}
	return ret;
}

int source_open_live(struct qemu_source *s)
{
	struct qmp *qmp;
	const char *why;
	int ret = qmp_open(s->options.qmp, vmferry_now() + QMP_NS, &qmp);

	if (ret < 0)
		return relay_fail(&s->relay, ret, "no live source: QEMU cannot be asked by QMP: %s",
				  strerror(-ret));
	why = find_danger(qmp);
	if (why != NULL)
		ret = relay_fail(&s->relay, -ENOTSUP, "no live source: %s; use --source payload",
				 why);
	else
		ret = open_blocks(s, qmp);
	qmp_close(&qmp);
	if (ret < 0)
		return relay_error(&s->relay) != 0
			       ? relay_error(&s->relay)
			       : relay_fail(&s->relay, ret, "no live source: %s", strerror(-ret));
	return register_blocks(s);
}

void source_close_live(struct qemu_source *s)
{
	for (unsigned int i = 0; i < s->offload.target_count; i++)
		vmferry_deregister(&s->offload.targets[i].live);
}

void source_release_live(struct qemu_source *s)
{
	if (s->live != NULL)
		placement_release(s->live, s->live_count);
	free(s->live);
}
