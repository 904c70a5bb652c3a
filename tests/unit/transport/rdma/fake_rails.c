/* SPDX-License-Identifier: MIT */
/* The rails of the fake device, for tests that take theirs from VMFERRY_RAILS. */
#include <stdlib.h>

__attribute__((constructor)) static void name_rails(void)
{
	setenv("VMFERRY_RAILS", "10.99.0.1 10.99.1.1", 1);
}
