/* SPDX-License-Identifier: MIT */
/* Copies of pages into QEMU's memory. It runs for each page of a stream: no allocation, no lock. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "log.h"
#include "placement.h"

static int check_pages(const struct placement *placement, const struct placement_page *pages,
		       unsigned int count)
{
	if (placement->kind == PLACEMENT_FORWARD || count > PLACEMENT_PAGES_MAX)
		return -EINVAL;
	for (unsigned int i = 0; i < count; i++)
		if (pages[i].offset > placement->bytes ||
		    pages[i].bytes > placement->bytes - pages[i].offset)
			return -ERANGE;
	return 0;
}

/* Drops the first @bytes of @vector; returns how many of its entries are used up by them. */
static unsigned int advance(struct iovec *vector, unsigned int count, size_t bytes)
{
	unsigned int used = 0;

	while (used < count && bytes >= vector[used].iov_len)
		bytes -= vector[used++].iov_len;
	if (used < count) {
		vector[used].iov_base = (char *)vector[used].iov_base + bytes;
		vector[used].iov_len -= bytes;
	}
	return used;
}

static int fail(const struct placement *placement, int error)
{
	qemu_error("block %s: writing to process %d failed: %s%s", placement->name, placement->pid,
		   strerror(error), error == EPERM ? "; CAP_SYS_PTRACE is needed" : "");
	return -error;
}

/* A call ends early where the memory cannot be written, with what came before it written. */
static int write_vectors(const struct placement *placement, struct iovec *local,
			 struct iovec *remote, unsigned int count)
{
	while (count > 0) {
		const ssize_t wrote =
			process_vm_writev(placement->pid, local, count, remote, count, 0);
		unsigned int used;

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return fail(placement, wrote < 0 ? errno : EFAULT);
		used = advance(local, count, (size_t)wrote);
		advance(remote, count, (size_t)wrote);
		local += used;
		remote += used;
		count -= used;
	}
	return 0;
}

static int write_process(const struct placement *placement, const struct placement_page *pages,
			 unsigned int count)
{
	struct iovec local[PLACEMENT_PAGES_MAX];
	struct iovec remote[PLACEMENT_PAGES_MAX];

	for (unsigned int i = 0; i < count; i++) {
		local[i].iov_base = (void *)pages[i].data; /* only read */
		local[i].iov_len = pages[i].bytes;
		remote[i].iov_base = placement_pointer(placement, pages[i].offset);
		remote[i].iov_len = pages[i].bytes;
	}
	return write_vectors(placement, local, remote, count);
}

int placement_write(const struct placement *placement, const struct placement_page *pages,
		    unsigned int count)
{
	const int status = check_pages(placement, pages, count);

	if (status < 0)
		return status;
	if (placement->kind == PLACEMENT_PROCESS)
		return write_process(placement, pages, count);
	for (unsigned int i = 0; i < count; i++)
		memcpy((char *)placement->base + pages[i].offset, pages[i].data, pages[i].bytes);
	return 0;
}
