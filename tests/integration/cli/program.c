/* SPDX-License-Identifier: MIT */
/* Output goes to files, so that a test can look at it at any time and no pipe can fill up. */
#include "program.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS_MAX    48
#define STEP_MS	     10
#define PASSED_FIRST 3

char work_directory[64];

void sleep_ms(unsigned int ms)
{
	const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&time, NULL);
}

void work_set_up(void)
{
	strcpy(work_directory, "/tmp/vmferry-test-XXXXXX");
	cr_assert_not_null(mkdtemp(work_directory));
}

void work_tear_down(void)
{
	DIR *directory = opendir(work_directory);
	struct dirent *entry;

	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL)
		unlinkat(dirfd(directory), entry->d_name, 0);
	closedir(directory);
	rmdir(work_directory);
}

const char *work_path(const char *name)
{
	static char paths[8][PATH_BYTES];
	static unsigned int next;
	char *path = paths[next++ % 8];

	snprintf(path, PATH_BYTES, "%s/%s", work_directory, name);
	return path;
}

static void output_to(const char *path, int fd)
{
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (file < 0 || dup2(file, fd) < 0)
		_exit(127);
	close(file);
}

/* As sd_listen_fds(3) wants it. */
static void pass_descriptors(const int *fds, unsigned int count)
{
	char text[32], names[128] = "";

	for (unsigned int i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "%sqemu-%u", i == 0 ? "" : ":", i);
		strncat(names, text, sizeof(names) - strlen(names) - 1);
		if (dup2(fds[i], PASSED_FIRST + (int)i) < 0)
			_exit(127);
	}
	snprintf(text, sizeof(text), "%u", count);
	setenv("LISTEN_FDS", text, 1);
	snprintf(text, sizeof(text), "%d", (int)getpid());
	setenv("LISTEN_PID", text, 1);
	setenv("LISTEN_FDNAMES", names, 1);
}

static void become(struct program *program, char **argv)
{
	int null = open("/dev/null", O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(null, STDIN_FILENO);
	output_to(program->out, STDOUT_FILENO);
	output_to(program->err, STDERR_FILENO);
	execv(VMFERRY, argv);
	_exit(127);
}

void program_start_passing(struct program *program, const char *const *words, const int *fds,
			   unsigned int count)
{
	static unsigned int number;
	char *argv[WORDS_MAX] = {(char *)VMFERRY};

	for (unsigned int i = 0; words[i] != NULL && i + 2 < WORDS_MAX; i++)
		argv[i + 1] = (char *)words[i];
	snprintf(program->out, PATH_BYTES, "%s/out-%u", work_directory, number);
	snprintf(program->err, PATH_BYTES, "%s/err-%u", work_directory, number++);
	program->pid = fork();
	cr_assert_geq(program->pid, 0);
	if (program->pid != 0)
		return;
	if (count > 0)
		pass_descriptors(fds, count);
	become(program, argv);
}

void program_start(struct program *program, const char *const *words)
{
	program_start_passing(program, words, NULL, 0);
}

int program_finish(struct program *program, unsigned int seconds)
{
	int status = 0;

	for (unsigned int waited = 0; waitpid(program->pid, &status, WNOHANG) == 0;
	     waited += STEP_MS) {
		if (waited >= seconds * 1000) {
			program_kill(program);
			return -1;
		}
		sleep_ms(STEP_MS);
	}
	program->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void program_kill(struct program *program)
{
	if (program->pid == 0)
		return;
	kill(program->pid, SIGKILL);
	waitpid(program->pid, NULL, 0);
	program->pid = 0;
}

static const char *contents(const char *path, char text[OUTPUT_BYTES])
{
	FILE *file = fopen(path, "re");
	size_t length = 0;

	if (file != NULL) {
		length = fread(text, 1, OUTPUT_BYTES - 1, file);
		fclose(file);
	}
	text[length] = '\0';
	return text;
}

const char *program_out(const struct program *program)
{
	static char text[OUTPUT_BYTES];

	return contents(program->out, text);
}

const char *program_err(const struct program *program)
{
	static char text[OUTPUT_BYTES];

	return contents(program->err, text);
}

bool file_says(const char *path, const char *text, unsigned int seconds)
{
	static char have[OUTPUT_BYTES];

	for (unsigned int waited = 0; waited < seconds * 1000; waited += STEP_MS) {
		if (strstr(contents(path, have), text) != NULL)
			return true;
		sleep_ms(STEP_MS);
	}
	return false;
}
