/* SPDX-License-Identifier: MIT */
/*
 * What the reference guest and whatever runs it agree on: ports, status bytes, the words of the
 * command line, and the machine that the guest expects. Every port takes single bytes, so that
 * under QEMU each can be an isa-debugcon device on a chardev.
 */
#ifndef GUEST_ABI_H
#define GUEST_ABI_H

#define GUEST_PORT_CONSOLE   0xe9 /* text, whole lines */
#define GUEST_PORT_HEARTBEAT 0xea /* the vCPU's index, `heartbeat` times a second from each vCPU */
#define GUEST_PORT_STATUS    0xeb /* one of the bytes below */

/*
 * Memory is filled and all vCPUs are about to enter their loops: heartbeats come from here on, none
 * before.
 */
#define GUEST_STATUS_READY 'R'

/*
 * Once for each page that was found lost, torn, stale or foreign; or once when the guest gives up.
 * The console says which.
 */
#define GUEST_STATUS_FAULT 'F'

/*
 * Every filled page has been read and found right since the last 'S' (or 'R'). Not after a pass
 * that found a fault.
 */
#define GUEST_STATUS_SCRUB 'S'

/*
 * Command line words, all optional; sizes in bytes or with K, M, G (powers of 1024). A word without
 * '=' is passed over (QEMU puts the image's path first); an unknown word is named on the console
 * and passed over; a bad value stops the guest with 'F'.
 *   fill=SIZE       memory that is given distinct non-zero content at boot: "all" (default) or e.g.
 *                   512M; at most what there is
 *   ws=SIZE         working set that is rewritten, from the start of the filled memory (default
 *                   64M; at most fill)
 *   rate=SIZE       bytes dirtied a second by all vCPUs together, in whole pages (default 0: idle,
 *                   HLT between beats)
 *   pattern=WORD    seq | random | hotcold (90 % of the writes in 10 % of the working set); default
 *                   random
 *   zero=PERCENT    share of rewrites that leave an all-zero page (default 0)
 *   touch=WORD      all: a rewrite changes the whole page (default); line: only its header and one
 *                   other line of 64 bytes, which is cheaper and so reaches higher rates; both
 *                   count as 4096 bytes
 *   heartbeat=HZ    beats a second from each vCPU (default 1000; 1 to 20000)
 *   vcpus=N         how many vCPUs to start (default 1; at most GUEST_VCPUS_MAX)
 *   scrub=SIZE      bytes of filled memory verified a second by all vCPUs together (default 64M,
 *                   and 0 when rate is 0, so that an idle guest is idle); reading dirties nothing
 *   report=SECONDS  a line on the console every so often: pages rewritten and verified since the
 *                   last one (default 0: none)
 *   tsc=HZ          the TSC's frequency (default: asked of CPUID or the KVM clock, else measured
 *                   against the PIT)
 */
#define GUEST_VCPUS_MAX 16

/*
 * The machine: multiboot entry on vCPU 0, with a memory map (at most 64 GiB are used); local APICs
 * in xAPIC mode at 0xfee00000 with APIC id = vCPU index; with vcpus > 1 the others wait for INIT-
 * SIPI-SIPI. The guest lies at 1 MiB, its version tables (8 bytes for each filled page) right above
 * it, and the filled memory above those; page 0x8000 is the trampoline.
 */

#endif
