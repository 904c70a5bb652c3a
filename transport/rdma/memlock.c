/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/rdma/chunk.h"

/*
 * The kernel asks for the capability in the first user namespace. In another one this says yes too
 * early, and registering will fail with the same words.
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

/*
 * What a device takes on demand is not pinned, unless one has refused to: then none is asked any
 * more.
 */
static uint64_t pinning_rails(const struct rdma_session *session)
{
	bool refused = atomic_load(&session->registrar->odp_refused);
	uint64_t rails = 0;

	for (unsigned int i = 0; i < session->rail_count; i++)
		rails += session->rails[i] != NULL && (refused || !session->rails[i]->limits.odp);
	return rails;
}

static bool allows(uint64_t rails, uint64_t bytes)
{
	rlim_t limit = limit_of_process();

	return limit == RLIM_INFINITY || rails == 0 || bytes <= limit / rails || exempt();
}

bool memlock_allows(const struct rdma_session *session, uint64_t bytes)
{
	return allows(pinning_rails(session), bytes);
}

/* Whether devices can page on demand is not known yet: where that is asked for it is hoped for. */
bool rdma_may_pin(const struct vmferry_transport_options *options, uint64_t bytes, char *why,
		  size_t size)
{
	char limit[MEMLOCK_TEXT];

	if (options->odp || allows(options->rail_count > 0 ? options->rail_count : 1, bytes))
		return true;
	memlock_text(limit);
	snprintf(why, size,
		 "the memlock limit of %s does not allow to pin %" PRIu64
		 " bytes (ulimit -l unlimited, or LimitMEMLOCK=infinity in a unit)",
		 limit, bytes);
	return false;
}

void memlock_text(char text[MEMLOCK_TEXT])
{
	rlim_t limit = limit_of_process();

	if (limit == RLIM_INFINITY)
		snprintf(text, MEMLOCK_TEXT, "unlimited");
	else
		snprintf(text, MEMLOCK_TEXT, "%" PRIu64 " bytes", (uint64_t)limit);
}
