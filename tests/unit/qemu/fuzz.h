/* SPDX-License-Identifier: MIT */
/* The entry that libFuzzer calls; fuzz_main.c does where the compiler has no libFuzzer. */
#ifndef TEST_QEMU_FUZZ_H
#define TEST_QEMU_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
