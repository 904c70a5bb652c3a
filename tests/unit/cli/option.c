/* SPDX-License-Identifier: MIT */
/* The tables of the real commands: defaults, limits, and the way over the control socket. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include <migrator/cli/command.h>
#include <migrator/cli/exit.h>
#include <migrator/cli/settings.h>

TestSuite(option, .timeout = 10);

static bool parse_migrate(int argc, const char *const *words, struct migration_settings *migration,
			  struct option_result *result, int *code)
{
	static uint64_t unused[8];
	void *const targets[] = {migration, &migration->transport, migration, unused, unused};
	char *argv[16];

	for (int i = 0; i < argc; i++)
		argv[i] = (char *)words[i];
	argv[argc] = NULL;
	return option_parse(&command_migrate, argc, argv, targets, result, code);
}

Test(option, migrate__arguments_and_options_in_any_order)
{
	const char *words[] = {"migrate", "/s",	      "--downtime",	  "5ms",
			       "tcp:h:1", "--verify", "--bandwidth=800M", "--lanes",
			       "2"};
	struct migration_settings migration = {0};
	struct option_result result;
	int code;

	cr_assert(parse_migrate(9, words, &migration, &result, &code));
	cr_assert_str_eq(result.arguments[0], "/s");
	cr_assert_str_eq(result.arguments[1], "tcp:h:1");
	cr_assert_eq(migration.downtime, 5000000);
	cr_assert_eq(migration.bandwidth, 800ull << 20);
	cr_assert_eq(migration.lanes, 2);
	cr_assert_eq(migration.timeout, VMFERRY_TIMEOUT_DEFAULT_NS);
	cr_assert_eq(migration.reconnect, VMFERRY_RECONNECT_DEFAULT_NS);
	cr_assert(migration.verify);
	cr_assert_not(migration.insecure);
}

Test(option, defaults__are_the_librarys)
{
	struct migration_settings migration = {0};

	option_defaults(&migration_group, &migration);
	option_defaults(&transport_group, &migration.transport);
	option_defaults(&migrate_group, &migration);
	cr_assert_eq(migration.transport.rails.count, 0);
	cr_assert_eq(migration.transport.tos, 0);
	cr_assert_not(migration.transport.odp);
	cr_assert_eq(migration.downtime, VMFERRY_DOWNTIME_DEFAULT_NS);
	cr_assert_eq(migration.timeout, VMFERRY_TIMEOUT_DEFAULT_NS);
	cr_assert_eq(migration.bandwidth, 0);
	cr_assert_eq(migration.lanes, 0);
	cr_assert_eq(migration.transport.kind, VMFERRY_TRANSPORT_AUTO);
	cr_assert_eq(migration.tracker, VMFERRY_TRACKER_AUTO);
}

Test(option, every_default__is_a_value_that_its_option_takes)
{
	char why[OPTION_WHY_MAX];

	for (unsigned int c = 0; commands[c] != NULL; c++) {
		for (unsigned int g = 0; commands[c]->groups[g] != NULL; g++) {
			const struct option_spec *spec = commands[c]->groups[g]->specs;
			uint64_t target[64] = {0};

			cr_assert(g < OPTION_GROUPS_MAX);
			for (; spec->name != NULL; spec++) {
				cr_assert(spec->offset <
					  sizeof(target) - sizeof(struct option_list));
				if (spec->fallback == NULL)
					continue;
				cr_assert_eq(option_set(commands[c]->groups[g], target, spec->name,
							spec->fallback, why),
					     0, "%s --%s: %s", commands[c]->name, spec->name, why);
			}
		}
	}
}

Test(option, bad_command_lines__usage, .init = cr_redirect_stderr)
{
	static const char *const bad[][6] = {
		{"migrate", "/s", "u", "--lanes", "0"},
		{"migrate", "/s", "u", "--lanes", "65"},
		{"migrate", "/s", "u", "--lanes", "two"},
		{"migrate", "/s", "u", "--downtime", "5"},
		{"migrate", "/s", "u", "--downtime"},
		{"migrate", "/s", "u", "--nonsense"},
		{"migrate", "/s", "u", "-x"},
		{"migrate", "/s", "u", "--verify=3"},
		{"migrate", "/s"},
		{"migrate", "/s", "u", "v"},
		{"migrate", "/s", "u", "--tracker", "caller"},
		{"migrate", "/s", "u", "--transport", "pigeon"},
		{"migrate", "/s", "u", "--tos", "256"},
		{"migrate", "/s", "u", "--rail"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct migration_settings migration;
		struct option_result result;
		int argc = 0;
		int code = -1;

		while (argc < 6 && bad[i][argc] != NULL)
			argc++;
		cr_assert_not(parse_migrate(argc, bad[i], &migration, &result, &code), "line %zu",
			      i);
		cr_assert_eq(code, EXIT_USAGE);
	}
}

Test(option, settings__survive_the_control_socket)
{
	struct migration_settings before = {
		.downtime = 1234567,
		.bandwidth = 800ull << 20,
		.timeout = 7000000000,
		.reconnect = 3000000000,
		.lanes = 3,
		.transport = {.kind = VMFERRY_TRANSPORT_RDMA,
			      .rails = {.items = {"10.0.0.1", "fd00::2"}, .count = 2},
			      .tos = 106,
			      .odp = true},
		.tracker = VMFERRY_TRACKER_LOG,
		.verify = true,
		.insecure = true};
	struct migration_settings after = {0};
	struct json_object *object = migration_to_json(&before);
	char why[OPTION_WHY_MAX];

	cr_assert_eq(migration_from_json(object, &after, why), 0);
	cr_assert_eq(after.downtime, before.downtime);
	cr_assert_eq(after.bandwidth, before.bandwidth);
	cr_assert_eq(after.timeout, before.timeout);
	cr_assert_eq(after.reconnect, before.reconnect);
	cr_assert_eq(after.lanes, before.lanes);
	cr_assert_eq(after.transport.kind, before.transport.kind);
	cr_assert_eq(after.transport.rails.count, 2);
	cr_assert_str_eq(after.transport.rails.items[0], "10.0.0.1");
	cr_assert_str_eq(after.transport.rails.items[1], "fd00::2");
	cr_assert_eq(after.transport.tos, 106);
	cr_assert(after.transport.odp);
	cr_assert_eq(after.tracker, before.tracker);
	cr_assert(after.verify);
	cr_assert(after.insecure);
	json_object_put(object);
}

Test(option, bad_settings_over_the_control_socket__refused)
{
	static const char *const bad[] = {"[]",
					  "{\"lanes\":2}",
					  "{\"lanes\":\"0\"}",
					  "{\"what\":\"1\"}",
					  "{\"verify\":\"maybe\"}",
					  "{\"transport\":\"pigeon\"}",
					  "{\"rail\":\"mlx5_0\"}",
					  "{\"rail\":[\"10.0.0.1\",2]}",
					  "{\"rail\":{\"a\":\"10.0.0.1\"}}"};
	struct migration_settings settings;
	char why[OPTION_WHY_MAX];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct json_object *object = json_tokener_parse(bad[i]);

		why[0] = '\0';
		cr_assert_eq(migration_from_json(object, &settings, why), -EINVAL, "%s", bad[i]);
		cr_assert_gt(strlen(why), 10);
		json_object_put(object);
	}
}

Test(option, rails__as_many_as_the_library_takes)
{
	struct transport_settings transport = {0};
	struct vmferry_transport_options options;
	char why[OPTION_WHY_MAX];

	option_defaults(&transport_group, &transport);
	for (unsigned int i = 0; i < VMFERRY_RAILS_MAX; i++)
		cr_assert_eq(option_set(&transport_group, &transport, "rail",
					i == 0 ? "fe80::1%lo" : "10.0.0.1", why),
			     0);
	cr_assert_eq(option_set(&transport_group, &transport, "rail", "10.0.0.1", why), -EINVAL);
	cr_assert_not_null(strstr(why, "8 times"), "%s", why);
	cr_assert_null(transport_check(&transport));
	transport_options(&transport, &options);
	cr_assert_eq(options.size, sizeof(options));
	cr_assert_eq(options.rail_count, VMFERRY_RAILS_MAX);
	cr_assert_str_eq(options.rails[0], "fe80::1%lo");
	cr_assert_str_eq(options.rails[7], "10.0.0.1");
}

Test(option, rail_that_is_a_name__refused_with_the_remedy)
{
	struct transport_settings transport = {
		.rails = {.items = {"10.0.0.1", "localhost"}, .count = 2}};
	const char *why = transport_check(&transport);

	cr_assert_not_null(why);
	cr_assert_not_null(strstr(why, "vmferry check"), "%s", why);
}
