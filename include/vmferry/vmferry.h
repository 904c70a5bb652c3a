/* SPDX-License-Identifier: MIT */
/*
 * What every part of libvmferry shares: version, log, clock, byte buffers and lists of problems.
 *
 * ERRORS   Functions return 0 (or a count) or a negative errno. Out-arguments are set only on
 *          success. The first function that sees a failure logs it once, with object, operation,
 *          cause and remedy.
 * TIME     Deadlines are absolute CLOCK_MONOTONIC nanoseconds, as vmferry_now() counts them. A
 *          deadline in the past makes a call try once without waiting. There is no "for ever".
 * THREADS  Each header says which thread may call what. Where nothing is said, an object belongs to
 *          one thread at a time.
 */
#ifndef VMFERRY_VMFERRY_H
#define VMFERRY_VMFERRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define VMFERRY_VERSION_MAJOR 0
#define VMFERRY_VERSION_MINOR 1
#define VMFERRY_VERSION_PATCH 0

/* The version of the library that runs, as "0.1.0". Static storage. Any thread. */
const char *vmferry_version(void);

enum vmferry_log_level {
	VMFERRY_LOG_ERROR,
	VMFERRY_LOG_WARN,
	VMFERRY_LOG_INFO,
	VMFERRY_LOG_DEBUG,
};

/* Receives one line without a newline. May be called from any thread, also from several at once. */
typedef void (*vmferry_log_fn)(void *ctx, enum vmferry_log_level level, const char *line);

/*
 * Send log lines of @level and more severe to @fn; NULL silences the library, which is the state it
 * starts in. Process-wide. Call it before other threads use the library.
 */
void vmferry_set_log(vmferry_log_fn fn, void *ctx, enum vmferry_log_level level);

/* CLOCK_MONOTONIC in nanoseconds. Any thread. */
uint64_t vmferry_now(void);

/*
 * A buffer of bytes that grows. The library hands one to callbacks that produce data; a caller may
 * make its own. Owned by whoever created it.
 */
struct vmferry_blob;

int vmferry_blob_new(struct vmferry_blob **blob);

/* Frees *@blob and sets it to NULL. Accepts a pointer to NULL. */
void vmferry_blob_free(struct vmferry_blob **blob);

/* Appends a copy of @length bytes. -ENOMEM leaves the blob as it was. */
int vmferry_blob_append(struct vmferry_blob *blob, const void *data, size_t length);

/*
 * Empties it. Its memory is kept for what is appended next, so that this needs none that was never
 * touched.
 */
void vmferry_blob_clear(struct vmferry_blob *blob);

/* The bytes and their number; the pointer is valid until the next append, clear or free. */
const void *vmferry_blob_data(const struct vmferry_blob *blob);
size_t vmferry_blob_size(const struct vmferry_blob *blob);

/*
 * A list of reasons why a migration cannot be done here, so that all of them are told at once.
 * The library owns the list that it hands to callbacks.
 */
struct vmferry_problems;

int vmferry_problems_new(struct vmferry_problems **problems);
void vmferry_problems_free(struct vmferry_problems **problems);

/*
 * Adds a problem: @what is wrong, and the @remedy. Both are copied. Beyond VMFERRY_PROBLEMS_MAX
 * they are counted but not kept.
 */
#define VMFERRY_PROBLEMS_MAX 256
void vmferry_problems_add(struct vmferry_problems *problems, const char *what, const char *remedy);

/*
 * How many were added, and the text "what (remedy)" of number @index; NULL past the last one kept.
 */
size_t vmferry_problems_count(const struct vmferry_problems *problems);
const char *vmferry_problems_get(const struct vmferry_problems *problems, size_t index);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
