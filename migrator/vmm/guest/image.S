/* SPDX-License-Identifier: MIT */
/*
 * The bytes of GUEST_IMAGE, the path that the build gives: see image.h.
 */
	.section .rodata
	.balign 16
	.globl guest_image, guest_image_size
	.hidden guest_image, guest_image_size
	.type guest_image, @object
	.type guest_image_size, @object
guest_image:
	.incbin GUEST_IMAGE
guest_image_end:
	.size guest_image, guest_image_end - guest_image
	.balign 8
guest_image_size:
	.quad guest_image_end - guest_image
	.size guest_image_size, 8

	.section .note.GNU-stack, "", @progbits
