/* SPDX-License-Identifier: MIT */
#include "mappings.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "log.h"

#define PATH_BYTES 64

/* A line of the file; false: it is not of the known form. */
static bool parse_line(const char *line, struct process_mapping *mapping, char access[5])
{
	static const char gone[] = " (deleted)";
	uint64_t end;
	unsigned int major_number;
	unsigned int minor_number;
	size_t length;
	int path = 0;

	memset(mapping, 0, sizeof(*mapping));
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n",
		   &mapping->address, &end, access, &mapping->offset, &major_number, &minor_number,
		   &mapping->inode, &path) < 7 ||
	    path == 0 || strlen(access) != 4 || end <= mapping->address)
		return false;
	mapping->bytes = end - mapping->address;
	mapping->dev = makedev(major_number, minor_number);
	mapping->writable = access[1] == 'w';
	mapping->shared = access[3] == 's';
	mapping->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	mapping->file = -1;
	length = strcspn(line + path, "\n");
	if (length >= sizeof(gone) - 1 &&
	    memcmp(line + path + length - (sizeof(gone) - 1), gone, sizeof(gone) - 1) == 0) {
		mapping->deleted = true;
		length -= sizeof(gone) - 1;
	}
	snprintf(mapping->path, sizeof(mapping->path), "%.*s", (int)length, line + path);
	return true;
}

/* Code that TCG generated is mapped writable too, in a memfd if it is mapped twice. */
static bool may_be_ram(const struct process_mapping *mapping, const char access[5])
{
	return access[0] == 'r' && mapping->writable && access[2] == '-' &&
	       mapping->path[0] != '[' && strcmp(mapping->path, "/memfd:tcg-jit") != 0;
}

/*
 * Whether @next is the rest of the same file's mapping. The kernel splits one by memory policy and
 * the like.
 */
static bool continues(const struct process_mapping *mapping, const struct process_mapping *next)
{
	return mapping->inode != 0 && mapping->inode == next->inode && mapping->dev == next->dev &&
	       mapping->shared == next->shared &&
	       mapping->address + mapping->bytes == next->address &&
	       mapping->offset + mapping->bytes == next->offset;
}

/* QEMU leaves an inaccessible page behind each block of RAM. */
static bool guards(const struct process_mapping *next, const char access[5],
		   const struct process_mapping *mapping)
{
	return memcmp(access, "---p", 4) == 0 && mapping->address + mapping->bytes == next->address;
}

struct parser {
	struct process_mapping *list;
	unsigned int max;
	unsigned int count;
	bool attributes; /* those that follow are of the last one in the list */
	bool continued;	 /* and of a later area of it */
};

static int take_area(struct parser *parser, const char *line)
{
	struct process_mapping *last = parser->count == 0 ? NULL : &parser->list[parser->count - 1];
	struct process_mapping mapping;
	char access[5];

	parser->attributes = false;
	if (!parse_line(line, &mapping, access))
		return -EPROTO;
	if (!may_be_ram(&mapping, access)) {
		if (last != NULL && guards(&mapping, access, last))
			last->guarded = true;
		return 0;
	}
	parser->attributes = true;
	parser->continued = last != NULL && continues(last, &mapping);
	if (parser->continued)
		last->bytes += mapping.bytes;
	else if (parser->count < parser->max)
		parser->list[parser->count++] = mapping;
	else
		return -E2BIG;
	return 0;
}

/* QEMU keeps its RAM from being copied to a child: no stack and no heap has that flag. */
static void take_attribute(struct parser *parser, const char *line)
{
	static const char page_size[] = "KernelPageSize:";
	struct process_mapping *last;
	uint64_t kib;

	if (!parser->attributes)
		return;
	last = &parser->list[parser->count - 1];
	/* A QEMU has thousands of lines, and sscanf() takes as long for those that are others. */
	if (strncmp(line, page_size, sizeof(page_size) - 1) == 0) {
		kib = strtoull(line + sizeof(page_size) - 1, NULL, 10);
		if (kib > 0 && kib <= UINT64_MAX / 1024)
			last->page_bytes = kib * 1024;
	} else if (strncmp(line, "VmFlags:", 8) == 0) {
		last->hugetlb = strstr(line, " ht") != NULL;
		last->dontfork =
			(!parser->continued || last->dontfork) && strstr(line, " dc") != NULL;
	}
}

int mappings_parse(FILE *smaps, struct process_mapping *list, unsigned int max)
{
	struct parser parser = {.list = list, .max = max};
	char *line = NULL;
	size_t size = 0;
	int status = 0;

	while (status == 0 && getline(&line, &size, smaps) > 0) {
		if (isupper((unsigned char)line[0]))
			take_attribute(&parser, line);
		else
			status = take_area(&parser, line);
	}
	free(line);
	return status < 0 ? status : (int)parser.count;
}

/*
 * Whether descriptor @fd is open on the file of @mapping. Its name is looked at first: asking for
 * the attributes of each of QEMU's files would wait for a dead NFS server.
 */
static bool is_open_on(int directory, const char *fd, const struct process_mapping *mapping)
{
	char name[PROCESS_NAME_MAX] = "";
	struct stat file;
	ssize_t length = readlinkat(directory, fd, name, sizeof(name) - 1);

	if (length <= 0 || mapping->inode == 0 ||
	    strncmp(name, mapping->path, strlen(mapping->path)) != 0)
		return false;
	return fstatat(directory, fd, &file, 0) == 0 && S_ISREG(file.st_mode) &&
	       mapping->inode == file.st_ino && mapping->dev == file.st_dev;
}

static void note_files(pid_t pid, struct process_mapping *list, int count)
{
	char path[PATH_BYTES];
	struct dirent *entry;
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	directory = opendir(path);
	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL)
		for (int i = 0; i < count; i++)
			if (list[i].file < 0 &&
			    is_open_on(dirfd(directory), entry->d_name, &list[i]))
				list[i].file = atoi(entry->d_name);
	closedir(directory);
}

int process_mappings(pid_t pid, struct process_mapping *list, unsigned int max)
{
	char path[PATH_BYTES];
	FILE *smaps;
	int count;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	smaps = fopen(path, "re");
	count = smaps == NULL ? -errno : mappings_parse(smaps, list, max);
	if (smaps != NULL)
		fclose(smaps);
	if (count < 0)
		qemu_error("process %d: reading its mappings failed: %s", pid, strerror(-count));
	else
		note_files(pid, list, count);
	return count;
}
