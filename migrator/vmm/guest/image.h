/* SPDX-License-Identifier: MIT */
/*
 * The reference guest's ELF image, as bytes in the program: the same as the file vmferry-guest.elf.
 */
#ifndef GUEST_IMAGE_H
#define GUEST_IMAGE_H

#include <stdint.h>

extern const unsigned char guest_image[];
extern const uint64_t guest_image_size;

#endif
