/* SPDX-License-Identifier: MIT */
/* Asked before anything is made, so that a host without KVM answers in one line. */
#include "kvm_present.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *kvm_remedy(int error)
{
	if (error == EACCES || error == EPERM)
		return "join the group kvm (adduser USER kvm, then log in again) or run as root";
	return "enable virtualization in the firmware, or nested virtualization for this virtual "
	       "machine, and load kvm_intel or kvm_amd";
}

bool kvm_present(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		return true;
	}
	fprintf(stderr,
		"vmferry: /dev/kvm: %s: no guest can run here: %s; vmferry check, the build and "
		"the unit tests work without it\n",
		strerror(errno), kvm_remedy(errno));
	return false;
}
