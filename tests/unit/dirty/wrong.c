/* SPDX-License-Identifier: MIT */
/*
 * The comparison that the tests of this folder rest on is able to fail: a harvest made of the
 * ring's pieces that publishes before KVM has protected the pages loses some on a real guest, and
 * the same in the right order loses none.
 */
#include <criterion/criterion.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "migrator/dirty/ring.h"
#include "migrator/dirty/slots.h"
#include "scene.h"

#define ENTRIES 4096u

TestSuite(wrong, .init = machine_need_kvm, .timeout = 300);

static void reset(struct scene *s, unsigned int marked)
{
	cr_assert_eq(ioctl(s->machine.vm_fd, KVM_RESET_DIRTY_RINGS, 0), (int)marked);
}

/*
 * Marks the dirty entries as collected, and their pages in the map: publish before or after, by
 * when it is called.
 */
static unsigned int publish_all(struct scene *s, struct ring *ring)
{
	unsigned int count = 0;
	uint64_t offset;
	uint32_t slot;

	while (ring_take(ring, &slot, &offset)) {
		for (unsigned int i = 0; i < s->map->region_count; i++)
			if (s->map->regions[i].region.slot == slot)
				dirty_region_mark(&s->map->regions[i], offset, 1);
		count++;
	}
	return count;
}

/* The guest writes for the last time between the two steps whose order matters. */
static unsigned int pages_lost(bool right)
{
	struct scene s;
	struct ring ring;
	unsigned int marked, lost;

	scene_make(&s, VMFERRY_TRACKER_RING, 1, ENTRIES);
	cr_assert_eq(ring_map(&ring, s.machine.vcpu_fds[0], ENTRIES), 0);
	cr_assert_eq(slots_log_on(s.machine.vm_fd, s.map), 0);
	scene_mark_all(&s);
	shadow_sweep(&s.shadow);
	machine_run(&s.machine);
	usleep(50000);

	marked = publish_all(&s, &ring);
	cr_assert_gt(marked, 0);
	if (right)
		reset(&s, marked);
	shadow_sweep(&s.shadow);
	usleep(50000);
	machine_stop(&s.machine);
	if (!right)
		reset(&s, marked);

	marked = publish_all(&s, &ring);
	reset(&s, marked);
	shadow_sweep(&s.shadow);
	lost = shadow_differs(&s.shadow, &s.machine);
	ring_unmap(&ring);
	scene_free(&s);
	return lost;
}

Test(wrong, read_before_reset__pages_are_lost_and_it_shows)
{
	cr_assert_gt(pages_lost(false), 0);
}

Test(wrong, read_after_reset__no_page_is_lost)
{
	cr_assert_eq(pages_lost(true), 0);
}
