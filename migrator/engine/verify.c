/* SPDX-License-Identifier: MIT */
#include "verify.h"

#include <errno.h>

#include "common/log.h"

/* Mismatches that get a line of their own. */
#define VERIFY_TOLD 8u

static int send_words(struct vmferry_session *session, enum vmferry_channel channel, uint32_t type,
		      uint32_t region, const uint64_t *words, uint64_t first, uint64_t end,
		      uint64_t deadline)
{
	while (first < end) {
		uint64_t n = end - first < MESSAGE_WORDS_MAX ? end - first : MESSAGE_WORDS_MAX;
		struct vmferry_blob *blob = NULL;
		int r = vmferry_blob_new(&blob);

		r = r < 0 ? r : words_pack(region, first, words + first, (uint32_t)n, blob);
		if (r < 0) {
			vmferry_blob_free(&blob);
			return r;
		}
		r = message_send(session, channel, type, &blob, deadline);
		if (r < 0)
			return r;
		first += n;
	}
	return 0;
}

static uint64_t next_set(const uint64_t *words, uint64_t from, uint64_t end)
{
	while (from < end && words[from] == 0)
		from++;
	return from;
}

/* The end of a run; a short gap of zero words is cheaper than another message. */
static uint64_t run_end(const uint64_t *words, uint64_t from, uint64_t end)
{
	uint64_t gap = 0;

	for (; from < end && gap < 16; from++)
		gap = words[from] == 0 ? gap + 1 : 0;
	return from - gap;
}

int verify_send_resent(struct vmferry_session *session, enum vmferry_channel channel,
		       uint64_t *const *resent, const struct vmferry_region *regions,
		       unsigned int count, uint64_t deadline)
{
	for (unsigned int i = 0; i < count; i++) {
		uint64_t words = (regions[i].size / VMFERRY_PAGE_SIZE + 63) / 64;
		uint64_t from = next_set(resent[i], 0, words);

		while (from < words) {
			uint64_t to = run_end(resent[i], from, words);
			int r = send_words(session, channel, MESSAGE_RESENT, i, resent[i], from, to,
					   deadline);

			if (r < 0)
				return r;
			from = next_set(resent[i], to, words);
		}
	}
	return 0;
}

int verify_send_hashes(struct vmferry_session *session, const struct hash_table *table,
		       uint64_t deadline)
{
	return send_words(session, VMFERRY_MAILBOX, MESSAGE_HASHES, 0, table->of_page, 0,
			  hash_table_pages(table), deadline);
}

int verify_take_hashes(const struct vmferry_message *message, struct hash_table *table,
		       uint64_t *received)
{
	uint64_t pages = hash_table_pages(table);
	struct words w;
	int r = words_unpack(message, &w);

	if (r < 0)
		return r;
	if (w.first != *received || w.count > pages - *received) {
		log_error("verify: hashes %llu to %llu of %llu: out of order: protocol error",
			  (unsigned long long)w.first, (unsigned long long)(w.first + w.count),
			  (unsigned long long)pages);
		return -EPROTO;
	}
	for (uint32_t i = 0; i < w.count; i++)
		table->of_page[w.first + i] = wire_get(w.at + (size_t)i * 8, 8);
	*received += w.count;
	return 0;
}

uint64_t verify_compare(const struct hash_table *here, const struct hash_table *there)
{
	uint64_t different = 0;

	for (unsigned int i = 0; i < here->region_count; i++) {
		for (uint64_t p = here->first[i]; p < here->first[i + 1]; p++) {
			if (here->of_page[p] == there->of_page[p])
				continue;
			if (different++ < VERIFY_TOLD)
				log_error("verify: page 0x%llx differs at the destination",
					  (unsigned long long)(here->regions[i].address +
							       (p - here->first[i]) *
								       VMFERRY_PAGE_SIZE));
		}
	}
	return different;
}
