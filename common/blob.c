/* SPDX-License-Identifier: MIT */
/* Growing byte buffers, lists of problems, and the library's version. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmferry/vmferry.h>

struct vmferry_blob {
	uint8_t *data;
	size_t size;
	size_t capacity;
};

struct vmferry_problems {
	char *text[VMFERRY_PROBLEMS_MAX];
	size_t count;
};

#define STR_(x) #x
#define STR(x)	STR_(x)

const char *vmferry_version(void)
{
	return STR(VMFERRY_VERSION_MAJOR) "." STR(VMFERRY_VERSION_MINOR) "." STR(
		VMFERRY_VERSION_PATCH);
}

int vmferry_blob_new(struct vmferry_blob **blob)
{
	struct vmferry_blob *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return -ENOMEM;
	*blob = b;
	return 0;
}

void vmferry_blob_free(struct vmferry_blob **blob)
{
	if (*blob == NULL)
		return;
	free((*blob)->data);
	free(*blob);
	*blob = NULL;
}

static int blob_reserve(struct vmferry_blob *blob, size_t length)
{
	size_t capacity = blob->capacity ? blob->capacity : 256;
	uint8_t *data;

	if (length > SIZE_MAX / 2 - blob->size)
		return -ENOMEM;
	while (capacity < blob->size + length)
		capacity *= 2;
	if (capacity == blob->capacity)
		return 0;
	data = realloc(blob->data, capacity);
	if (data == NULL)
		return -ENOMEM;
	blob->data = data;
	blob->capacity = capacity;
	return 0;
}

int vmferry_blob_append(struct vmferry_blob *blob, const void *data, size_t length)
{
	int r;

	if (length == 0)
		return 0;
	r = blob_reserve(blob, length);
	if (r < 0)
		return r;
	memcpy(blob->data + blob->size, data, length);
	blob->size += length;
	return 0;
}

void vmferry_blob_clear(struct vmferry_blob *blob)
{
	blob->size = 0;
}

const void *vmferry_blob_data(const struct vmferry_blob *blob)
{
	return blob->data;
}

size_t vmferry_blob_size(const struct vmferry_blob *blob)
{
	return blob->size;
}

int vmferry_problems_new(struct vmferry_problems **problems)
{
	struct vmferry_problems *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return -ENOMEM;
	*problems = p;
	return 0;
}

void vmferry_problems_free(struct vmferry_problems **problems)
{
	struct vmferry_problems *p = *problems;

	if (p == NULL)
		return;
	for (size_t i = 0; i < VMFERRY_PROBLEMS_MAX; i++)
		free(p->text[i]);
	free(p);
	*problems = NULL;
}

void vmferry_problems_add(struct vmferry_problems *problems, const char *what, const char *remedy)
{
	size_t i = problems->count++;

	if (i >= VMFERRY_PROBLEMS_MAX)
		return;
	if (asprintf(&problems->text[i], "%s (%s)", what, remedy) < 0)
		problems->text[i] = NULL;
}

size_t vmferry_problems_count(const struct vmferry_problems *problems)
{
	return problems->count;
}

const char *vmferry_problems_get(const struct vmferry_problems *problems, size_t index)
{
	return index < VMFERRY_PROBLEMS_MAX ? problems->text[index] : NULL;
}
