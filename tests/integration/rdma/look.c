/* SPDX-License-Identifier: MIT */
/*
 * rdma-look SOCKET|FILE POINTER... prints members of a report in FILE, or of the status that is had
 * at a control socket, one a line, by JSON pointer: /guest/beats. What is not there is an empty
 * line; exit status 1 if there is nothing to look at.
 */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <migrator/cli/client.h>
#include <vmferry/vmferry.h>

#define ANSWER_NS 5000000000ull

static struct json_object *status_of(const char *socket)
{
	struct json_object *status = NULL;
	struct client *client;

	if (client_connect(socket, &client) < 0)
		return NULL;
	client_ask(client, "status", -1, vmferry_now() + ANSWER_NS, &status);
	client_free(&client);
	return status;
}

int main(int argc, char **argv)
{
	struct json_object *object, *member;
	struct stat file;

	if (argc < 3 || stat(argv[1], &file) < 0)
		return EXIT_FAILURE;
	object = S_ISSOCK(file.st_mode) ? status_of(argv[1]) : json_object_from_file(argv[1]);
	if (object == NULL)
		return EXIT_FAILURE;
	for (int i = 2; i < argc; i++) {
		if (json_pointer_get(object, argv[i], &member) < 0 || member == NULL)
			puts("");
		else
			puts(json_object_get_string(member));
	}
	json_object_put(object);
	return EXIT_SUCCESS;
}
