/* SPDX-License-Identifier: MIT */
#include "common/discard.h"

#include <errno.h>
#include <sys/mman.h>

int discard_pages(void *base, uint64_t size)
{
	/*
	 * Punches a hole, so that the pages go whoever else has them mapped; of a private mapping
	 * there is no file to do that to.
	 */
	if (madvise(base, size, MADV_REMOVE) == 0)
		return 0;
	if (errno == EINVAL && madvise(base, size, MADV_DONTNEED) == 0)
		return 0;
	return -errno;
}
