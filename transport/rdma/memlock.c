/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/rdma/chunk.h"

/*
 * The kernel asks for the capability in the first user namespace. In another one this says yes too early, and registering will fail with
 * the same words.
 */
static bool exempt(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0;
}

static rlim_t limit_of_process(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_MEMLOCK, &limit) < 0 ? RLIM_INFINITY : limit.rlim_cur;
}

/* What a device takes on demand is not pinned. */
static uint64_t pinning_rails(const struct rdma_session *session)
{
	uint64_t rails = 0;

	for (unsigned int i = 0; i < session->rail_count; i++)
		rails += session->rails[i] != NULL && !session->rails[i]->limits.odp;
	return rails;
}

bool memlock_allows(const struct rdma_session *session, uint64_t bytes)
{
	uint64_t rails = pinning_rails(session);
	rlim_t limit = limit_of_process();

	return limit == RLIM_INFINITY || rails == 0 || bytes <= limit / rails || exempt();
}

void memlock_text(char text[MEMLOCK_TEXT])
{
	rlim_t limit = limit_of_process();

	if (limit == RLIM_INFINITY)
		snprintf(text, MEMLOCK_TEXT, "unlimited");
	else
		snprintf(text, MEMLOCK_TEXT, "%" PRIu64 " bytes", (uint64_t)limit);
}
