/* SPDX-License-Identifier: MIT */
/*
 * Writes files of known content on the virtio disk, syncs them, gives them their name, and reads
 * them back past the page cache, so that a read shows what the disk holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "work.h"

#define FILES	   16
#define BLOCK	   4096ul
#define BLOCKS_MAX 64
#define PAUSE_NS   (20 * NS_PER_MS)

static uint32_t versions[FILES]; /* 0: not written yet */
static unsigned char *buffer;

static size_t length_of(unsigned int file, uint32_t version)
{
	return (1 + seed_of(file, version) % BLOCKS_MAX) * BLOCK;
}

static void name_of(unsigned int file, char name[64])
{
	snprintf(name, 64, "/disk/file%u", file);
}

static bool write_all(int fd, size_t length)
{
	size_t done = 0;
	ssize_t n;

	while (done < length) {
		n = write(fd, buffer + done, length - done);
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return fsync(fd) == 0;
}

static void write_file(unsigned int file)
{
	size_t length = length_of(file, versions[file] + 1);
	char name[64];
	int fd = open("/disk/new", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	fill(buffer, length, seed_of(file, versions[file] + 1));
	name_of(file, name);
	if (fd < 0 || !write_all(fd, length) || rename("/disk/new", name) < 0)
		report_error("files: %s cannot be written: %s", name, strerror(errno));
	else
		versions[file]++;
	if (fd >= 0)
		close(fd);
	counters.files++;
}

static void read_file(unsigned int file)
{
	size_t length = length_of(file, versions[file]);
	size_t at;
	char name[64];
	ssize_t n = -1;
	int fd;

	name_of(file, name);
	fd = open(name, O_RDONLY | O_DIRECT);
	memset(buffer, 0, length);
	if (fd >= 0)
		n = read(fd, buffer, BLOCKS_MAX * BLOCK);
	at = find_difference(buffer, length, seed_of(file, versions[file]));
	if (n < 0)
		report_error("files: %s cannot be read: %s", name, strerror(errno));
	else if ((size_t)n != length)
		report_error("files: %s has %zd bytes, not %zu", name, n, length);
	else if (at != length)
		report_error("files: %s differs from version %u at %zu", name, versions[file], at);
	if (fd >= 0)
		close(fd);
	counters.reads++;
}

void *file_work(void *arg)
{
	uint64_t random = 1;
	unsigned int file;

	buffer = aligned_alloc(BLOCK, BLOCKS_MAX * BLOCK);
	if (buffer == NULL)
		die("files: no memory");
	for (;;) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		write_file((random >> 33) % FILES);
		file = (random >> 40) % FILES;
		if (versions[file] > 0)
			read_file(file);
		sleep_ns(PAUSE_NS);
	}
	return arg;
}
