/* SPDX-License-Identifier: MIT */
/*
 * rdma-memory PID BYTES prints a hash of each page of a process's one writable mapping of that
 * size, one a line with its offset: the memory of a QEMU's guest, to be compared with that of
 * another QEMU, also on another host. Exit status 1, and why on stderr, if there is no such
 * mapping, or more than one, or it cannot be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define PAGE 4096

/* How many mappings are so; the last one's address. */
static unsigned int find(const char *pid, uint64_t bytes, uint64_t *address)
{
	unsigned int found = 0;
	char path[64], line[512], access[8];
	uint64_t begin, end;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	maps = fopen(path, "re");
	if (maps == NULL)
		return 0;
	while (fgets(line, sizeof(line), maps) != NULL) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &begin, &end, access) != 3 ||
		    end - begin != bytes || strncmp(access, "rw", 2) != 0)
			continue;
		*address = begin;
		found++;
	}
	fclose(maps);
	return found;
}

static bool print_hashes(const char *pid, uint64_t address, uint64_t bytes)
{
	unsigned char page[PAGE];
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "rdma-memory: %s: %s\n", path, strerror(errno));
		return false;
	}
	for (uint64_t at = 0; at < bytes; at += PAGE) {
		if (pread(fd, page, PAGE, (off_t)(address + at)) != PAGE) {
			fprintf(stderr, "rdma-memory: %s: page %#" PRIx64 " cannot be read\n", path,
				at);
			close(fd);
			return false;
		}
		printf("%" PRIx64 " %016" PRIx64 "\n", at, (uint64_t)XXH3_64bits(page, PAGE));
	}
	close(fd);
	return true;
}

int main(int argc, char **argv)
{
	uint64_t address = 0, bytes;
	unsigned int found;

	if (argc != 3) {
		fputs("usage: rdma-memory PID BYTES\n", stderr);
		return EXIT_FAILURE;
	}
	bytes = strtoull(argv[2], NULL, 10);
	found = find(argv[1], bytes, &address);
	if (found != 1) {
		fprintf(stderr,
			"rdma-memory: process %s has %u writable mappings of %" PRIu64 " bytes\n",
			argv[1], found, bytes);
		return EXIT_FAILURE;
	}
	return print_hashes(argv[1], address, bytes) && fflush(stdout) == 0 ? EXIT_SUCCESS
									    : EXIT_FAILURE;
}
