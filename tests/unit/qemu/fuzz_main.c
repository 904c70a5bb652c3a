/* SPDX-License-Identifier: MIT */
/*
 * fuzz-... -runs=N DIRECTORY: calls a fuzzer without libFuzzer, with the files of DIRECTORY and
 * with N changed ones, the same ones in every run.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "must.h"

#define SEEDS_MAX 4096
#define ROOM	  16384u /* of an input */

struct input {
	uint8_t *data;
	size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t seed_count;
static uint64_t state = 20240229;

static size_t below(size_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (size_t)(state % limit);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_seed(const char *directory, const char *name)
{
	struct input *seed = &seeds[seed_count];
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	f = fopen(path, "rb");
	must_for(f != NULL && seed_count < SEEDS_MAX, path);
	seed->data = malloc(ROOM);
	must(seed->data != NULL);
	seed->size = fread(seed->data, 1, ROOM, f);
	must_for(seed->size > 0, path);
	fclose(f);
	seed_count++;
}

static void read_seeds(const char *directory)
{
	struct dirent **names;
	int count = scandir(directory, &names, NULL, by_name);

	must_for(count > 0, directory);
	for (int i = 0; i < count; i++) {
		if (names[i]->d_name[0] != '.')
			read_seed(directory, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	must_for(seed_count > 0, directory);
}

static void change(uint8_t *data, size_t *size)
{
	static const uint8_t values[] = {0,    1,    2,	   3,	 4,    8,   0x10,
					 0x20, 0x40, 0x7e, 0x7f, 0x80, 0xff};
	size_t at = below(*size), length = 1 + below(16);

	if (length > *size - at)
		length = *size - at;
	switch (below(6)) {
	case 0:
		data[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1:
		data[at] = values[below(sizeof(values))];
		break;
	case 2:
		*size = at + 1;
		break;
	case 3: /* cut out */
		memmove(data + at, data + at + length, *size - at - length);
		*size -= length < *size ? length : 0;
		break;
	case 4: /* repeat */
		length = length < ROOM - *size ? length : ROOM - *size;
		memmove(data + at + length, data + at, *size - at);
		*size += length;
		break;
	default: /* from elsewhere */
		memmove(data + at, data + below(*size - length + 1), length);
	}
}

/* In a block of just its size, so that a sanitizer sees what is read behind it. */
static void call(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size);

	must(copy != NULL);
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

int main(int argc, char **argv)
{
	static uint8_t data[ROOM];
	unsigned long runs = 0;

	must(argc == 3 && sscanf(argv[1], "-runs=%lu", &runs) == 1);
	read_seeds(argv[2]);
	for (size_t i = 0; i < seed_count; i++)
		call(seeds[i].data, seeds[i].size);
	for (unsigned long run = 0; run < runs; run++) {
		const struct input *seed = &seeds[below(seed_count)];
		size_t size = seed->size;

		memcpy(data, seed->data, size);
		for (size_t changes = 1 + below(6); changes > 0; changes--)
			change(data, &size);
		call(data, size);
	}
	printf("%zu seeds, %lu changed\n", seed_count, runs);
	return 0;
}
