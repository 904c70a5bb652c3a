/* SPDX-License-Identifier: MIT */
/*
 * Multiboot 1 loader: puts an image, its modules and the boot information into guest memory, as the
 * Multiboot Specification 0.6.96 has it. It works on plain buffers and knows nothing of KVM. The
 * image is not trusted: every offset and address is checked before use.
 */
#ifndef VMM_LOADER_H
#define VMM_LOADER_H

#include <stddef.h>
#include <stdint.h>

#define MULTIBOOT_MAGIC_EAX 0x2badb002u

struct loader_memory {
	uint8_t *low;	    /* guest physical 0 to @low_size - 1 */
	uint64_t low_size;  /* at most 3 GiB, more than 1 MiB */
	uint64_t high_size; /* from 4 GiB; only reported to the guest */
};

struct loader_module {
	const char *string; /* handed to the guest */
	const void *data;
	size_t size;
};

struct loader_image {
	const char *name; /* for messages */
	const void *data;
	size_t size;
	const char *command_line;
	const struct loader_module *modules;
	unsigned int module_count;
};

struct loader_entry {
	uint32_t eip;
	uint32_t ebx; /* address of the boot information; EAX is MULTIBOOT_MAGIC_EAX */
};

/*
 * -ENOEXEC with the reason logged if the image cannot be booted here. Memory may have been written
 * even then.
 */
int loader_load(const struct loader_memory *memory, const struct loader_image *image,
		struct loader_entry *entry);

#endif
