/* SPDX-License-Identifier: MIT */
/*
 * vmferry as a child process: its arguments, its output as files, its exit status, always with a
 * deadline.
 */
#ifndef TEST_PROGRAM_H
#define TEST_PROGRAM_H

#include <stdbool.h>
#include <sys/types.h>

#define PATH_BYTES   160
#define OUTPUT_BYTES 65536

struct program {
	pid_t pid; /* 0: none */
	char out[PATH_BYTES];
	char err[PATH_BYTES];
};

/* A directory of the test's own for everything that it writes; removed with all that is in it. */
extern char work_directory[64];
void work_set_up(void);
void work_tear_down(void);

/* The path of @name in the work directory, in one of a few static buffers. */
const char *work_path(const char *name);

/* Starts vmferry with these words, NULL at the end. It is killed with the test at the latest. */
void program_start(struct program *program, const char *const *words);
#define PROGRAM(program, ...) program_start(program, (const char *const[]){__VA_ARGS__, NULL})

/*
 * The same, with @count descriptors passed as a service manager does, from 3 on; they are above
 * those themselves.
 */
void program_start_passing(struct program *program, const char *const *words, const int *fds,
			   unsigned int count);

/*
 * Waits for the end: its exit status, 128 + the signal that ended it, or -1 (and it is killed) when
 * time is up.
 */
int program_finish(struct program *program, unsigned int seconds);

/* Kills it if it still runs. */
void program_kill(struct program *program);

/* What it has written so far; static. */
const char *program_out(const struct program *program);
const char *program_err(const struct program *program);

/* Waits until @text is in the file @path; false when time is up. */
bool file_says(const char *path, const char *text, unsigned int seconds);

/* Runs it to its end. */
#define RUN_TO_END(program, ...) (PROGRAM(program, __VA_ARGS__), program_finish(program, 120))

void sleep_ms(unsigned int ms);

#endif
