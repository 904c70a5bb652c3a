/* SPDX-License-Identifier: MIT */
/* Migrations that the destination cannot take, and what it says then. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

/*
 * The destination waits for QEMU longer than a silence of the peer may last, and reads no messages
 * meanwhile.
 */
Test(qemu_refuse, no_qemu_at_destination__told_as_that)
{
	static const char start[] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
	struct rig rig;
	struct rig_source s;
	char byte;
	int fd;

	rig_open(&rig);
	rig_source_start(&rig, &s, &fd);
	cr_assert_eq(write(fd, start, sizeof(start)), sizeof(start));
	cr_assert_leq(read(fd, &byte, 1), 0);
	rig_source_await(&s);
	rig_await_destinations(&rig, 1);
	cr_expect(!s.completed);
	cr_expect(!rig.destination_completed);
	cr_expect(strstr(rig.destination_reason, "cannot connect to QEMU"), "%s",
		  rig.destination_reason);
	/*
	 * The source has sent signs of life meanwhile, which nobody has read: its connection must
	 * not be reset because of them.
	 */
	cr_expect(strstr(rig_text(s.report, "reason"), "cannot connect to QEMU"), "%s",
		  rig_text(s.report, "reason"));
	json_object_put(s.report);
	close(fd);
	rig_close(&rig);
}
