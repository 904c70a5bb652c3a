/* SPDX-License-Identifier: MIT */
/*
 * The description of a machine that its source sends ahead: JSON for what the VMM made, and KVM's
 * part as the library gives it. It comes from a peer and is not trusted.
 */
#ifndef VMM_SPEC_H
#define VMM_SPEC_H

#include "internal.h"

struct spec {
	uint64_t memory;
	unsigned int vcpus;
	enum vmm_pages pages;
	enum vmferry_tracker tracker;
	uint32_t ring_entries;
	const void *kvm; /* in the bytes that were decoded */
	size_t kvm_length;
};

int spec_encode(const struct vmm *vmm, const struct vmferry_blob *kvm, struct vmferry_blob *out);

/*
 * -EPROTO with the reason logged for bytes that make no sense. What makes sense but cannot be had
 * here, like a device of a newer version, is added to @problems, unless that is NULL.
 */
int spec_decode(const void *data, size_t length, struct spec *spec,
		struct vmferry_problems *problems);

/* Adds what this host lacks for such a machine. An error only if the check could not be done. */
int spec_check(const struct spec *spec, const struct vmm_arrival *arrival,
	       struct vmferry_problems *problems);

#endif
