/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "pair.h"
#include "transport/uri.h"

Test(uri, bad__einval_with_example, .timeout = 120)
{
	static const char *const bad[] = {
		"",
		"tcp",
		"tcp:",
		"tcp::",
		"tcp::80",
		"tcp:localhost",
		"tcp:localhost:",
		"tcp:localhost:65536",
		"tcp:localhost:-1",
		"tcp:localhost:+1",
		"tcp:localhost: 1",
		"tcp:localhost:80x",
		"tcp:localhost:000080",
		"tcp:[::1]",
		"tcp:[::1]80",
		"tcp:[::1:80",
		"tcp:[]:80",
		"tcp:[127.0.0.1]:80",
		"tcp:::1:80",
		"tcp:127.0.0.1:80:80",
		"rdma:127.0.0.1:80",
		"TCP:127.0.0.1:80",
		"127.0.0.1:80",
		"unix:/tmp/x",
	};

	log_keep();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vmferry_listener *listener = NULL;
		struct vmferry_session *session = NULL;

		cr_expect_eq(vmferry_listen(bad[i], NULL, &listener), -EINVAL, "'%s'", bad[i]);
		cr_expect_eq(vmferry_connect(bad[i], NULL, PATIENT, &session), -EINVAL, "'%s'",
			     bad[i]);
		cr_expect_null(listener);
		cr_expect_null(session);
	}
	cr_expect(log_has("write for example tcp:127.0.0.1:4444"));
}

Test(uri, too_long__einval)
{
	char text[1024] = "tcp:";
	struct uri uri;

	memset(text + 4, 'a', 400);
	strcpy(text + 404, ":80");
	cr_expect_eq(uri_parse(text, &uri), -EINVAL);
	cr_expect_eq(uri_parse(NULL, &uri), -EINVAL);
}

Test(uri, good__split)
{
	struct uri uri;

	cr_assert_eq(uri_parse("tcp:example.org:65535", &uri), 0);
	cr_expect_str_eq(uri.host, "example.org");
	cr_expect_str_eq(uri.port, "65535");
	cr_expect_not(uri.numeric);
	cr_assert_eq(uri_parse("tcp:[fe80::1]:0", &uri), 0);
	cr_expect_str_eq(uri.host, "fe80::1");
	cr_expect_str_eq(uri.port, "0");
	cr_expect(uri.numeric);
}

Test(uri, bad_ipv6_in_brackets__einval)
{
	struct vmferry_listener *listener = NULL;

	cr_expect_eq(vmferry_listen("tcp:[1:2]:0", NULL, &listener), -EINVAL);
}

Test(uri, not_loopback__eperm_unless_insecure, .timeout = 120)
{
	static const char *const far[] = {"tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.1:80",
					  "tcp:[2001:db8::1]:80"};
	struct vmferry_transport_options o = {.size = sizeof(o), .insecure = true};
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;

	log_keep();
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
		cr_expect_eq(vmferry_listen(far[i], NULL, &listener), -EPERM, "%s", far[i]);
	cr_expect_eq(vmferry_connect("tcp:192.0.2.1:80", NULL, PATIENT, &session), -EPERM);
	cr_expect(log_has("say insecure"));
	cr_assert_eq(vmferry_listen("tcp:0.0.0.0:0", &o, &listener), 0);
	cr_expect_null(strstr(vmferry_listener_uri(listener), "0.0.0.0"));
	vmferry_listener_close(&listener);
}
