/* SPDX-License-Identifier: MIT */
/* Whether this host can run guests at all. */
#ifndef CLI_KVM_PRESENT_H
#define CLI_KVM_PRESENT_H

#include <stdbool.h>

/* What to do about a /dev/kvm that is not there or may not be opened. */
const char *kvm_remedy(int error);

/* True if /dev/kvm can be opened; else why not, and what still works, is printed in one line. */
bool kvm_present(void);

#endif
