/* SPDX-License-Identifier: MIT */
#include "transport/handshake.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <string.h>

#include "common/log.h"
#include "common/wire.h"

static const uint8_t magic[8] = {'V', 'M', 'F', 'E', 'R', 'R', 'Y', '\n'};

static void prefix_encode(uint16_t second, uint8_t *bytes)
{
	memcpy(bytes, magic, sizeof(magic));
	wire_put_u16(bytes + 8, PROTOCOL_VERSION);
	wire_put_u16(bytes + 10, second);
}

static int prefix_decode(const uint8_t *bytes, uint16_t *version, uint16_t *second)
{
	if (memcmp(bytes, magic, sizeof(magic)) != 0)
		return -EPROTO;
	*version = (uint16_t)wire_get(bytes + 8, 2);
	*second = (uint16_t)wire_get(bytes + 10, 2);
	return 0;
}

void hello_control_encode(const struct hello_control *hello, uint8_t bytes[HELLO_CONTROL])
{
	prefix_encode(HELLO_KIND_CONTROL, bytes);
	wire_put_u32(bytes + 12, hello->flags);
	wire_put_u32(bytes + 16, hello->lanes);
	wire_put_u32(bytes + 20, hello->transport);
	wire_put_u32(bytes + 24, hello->rdma_lanes);
	wire_put_u64(bytes + 28, hello->memory);
}

void hello_lane_encode(const struct hello_lane *hello, uint8_t bytes[HELLO_LANE])
{
	prefix_encode(HELLO_KIND_LANE, bytes);
	memcpy(bytes + 12, hello->session, SESSION_ID_BYTES);
	wire_put_u32(bytes + 28, hello->number);
	memcpy(bytes + 32, hello->mac, MAC_BYTES);
}

void answer_prefix_encode(enum answer_status status, uint8_t bytes[ANSWER_PREFIX])
{
	prefix_encode((uint16_t)status, bytes);
}

/* Ports and addresses are in network order already. */
static void rail_encode(const struct address *rail, uint8_t *bytes)
{
	const struct sockaddr_in *v4 = (const void *)&rail->storage;
	const struct sockaddr_in6 *v6 = (const void *)&rail->storage;
	bool is_v6 = rail->storage.ss_family == AF_INET6;

	memset(bytes, 0, RAIL_BYTES);
	wire_put_u16(bytes, is_v6 ? 6 : 4);
	memcpy(bytes + 2, &v4->sin_port, 2); /* where v6 has it too */
	if (is_v6)
		wire_put_u32(bytes + 4, v6->sin6_scope_id);
	if (is_v6)
		memcpy(bytes + 8, &v6->sin6_addr, 16);
	else
		memcpy(bytes + 8, &v4->sin_addr, 4);
}

static int rail_decode(const uint8_t *bytes, struct address *rail)
{
	struct sockaddr_in *v4 = (void *)&rail->storage;
	struct sockaddr_in6 *v6 = (void *)&rail->storage;

	*rail = (struct address){0};
	switch (wire_get(bytes, 2)) {
	case 4:
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, bytes + 8, 4);
		rail->length = sizeof(*v4);
		break;
	case 6:
		v6->sin6_family = AF_INET6;
		v6->sin6_scope_id = (uint32_t)wire_get(bytes + 4, 4);
		memcpy(&v6->sin6_addr, bytes + 8, 16);
		rail->length = sizeof(*v6);
		break;
	default:
		return -EPROTO;
	}
	memcpy(&v4->sin_port, bytes + 2, 2);
	return 0;
}

void answer_encode(const struct answer *answer, uint8_t bytes[ANSWER_BYTES])
{
	uint8_t *rails = bytes + 76;

	memset(bytes, 0, ANSWER_BYTES);
	prefix_encode(answer->status, bytes);
	memcpy(bytes + 12, answer->session, SESSION_ID_BYTES);
	memcpy(bytes + 28, answer->secret, SECRET_BYTES);
	wire_put_u32(bytes + 60, answer->lanes);
	wire_put_u32(bytes + 64, answer->transport);
	wire_put_u32(bytes + 68, answer->reason);
	wire_put_u32(bytes + 72, answer->addresses.rail_count);
	for (unsigned int i = 0; i < answer->addresses.rail_count; i++)
		rail_encode(&answer->addresses.rails[i], rails + (size_t)i * RAIL_BYTES);
}

int hello_prefix_decode(const uint8_t bytes[HELLO_PREFIX], struct hello_prefix *prefix)
{
	return prefix_decode(bytes, &prefix->version, &prefix->kind);
}

void hello_control_decode(const uint8_t *body, struct hello_control *hello)
{
	hello->flags = (uint32_t)wire_get(body, 4);
	hello->lanes = (uint32_t)wire_get(body + 4, 4);
	hello->transport = (uint32_t)wire_get(body + 8, 4);
	hello->rdma_lanes = (uint32_t)wire_get(body + 12, 4);
	hello->memory = wire_get(body + 16, 8);
}

void hello_lane_decode(const uint8_t *body, struct hello_lane *hello)
{
	memcpy(hello->session, body, SESSION_ID_BYTES);
	hello->number = (uint32_t)wire_get(body + 16, 4);
	memcpy(hello->mac, body + 20, MAC_BYTES);
}

int answer_prefix_decode(const uint8_t bytes[ANSWER_PREFIX], struct answer *answer)
{
	return prefix_decode(bytes, &answer->version, &answer->status);
}

int answer_decode(const uint8_t *body, struct answer *answer)
{
	int ret = 0;

	memcpy(answer->session, body, SESSION_ID_BYTES);
	memcpy(answer->secret, body + 16, SECRET_BYTES);
	answer->lanes = (uint32_t)wire_get(body + 48, 4);
	answer->transport = (uint32_t)wire_get(body + 52, 4);
	answer->reason = (uint32_t)wire_get(body + 56, 4);
	answer->addresses.rail_count = (uint32_t)wire_get(body + 60, 4);
	if (answer->addresses.rail_count > VMFERRY_RAILS_MAX)
		return -EPROTO;
	for (unsigned int i = 0; ret == 0 && i < answer->addresses.rail_count; i++)
		ret = rail_decode(body + 64 + (size_t)i * RAIL_BYTES, &answer->addresses.rails[i]);
	return ret;
}

size_t hello_bytes(uint16_t kind)
{
	switch (kind) {
	case HELLO_KIND_CONTROL:
		return HELLO_CONTROL;
	case HELLO_KIND_LANE:
		return HELLO_LANE;
	default:
		return 0;
	}
}

static int crypto_error(const char *what, int error)
{
	log_error("handshake: %s: %s: check the installation of gnutls", what,
		  gnutls_strerror(error));
	return -EIO;
}

int handshake_random(uint8_t session[SESSION_ID_BYTES], uint8_t secret[SECRET_BYTES])
{
	int ret = gnutls_rnd(GNUTLS_RND_NONCE, session, SESSION_ID_BYTES);

	if (ret == 0)
		ret = gnutls_rnd(GNUTLS_RND_KEY, secret, SECRET_BYTES);
	return ret == 0 ? 0 : crypto_error("no random numbers", ret);
}

static int lane_mac(const uint8_t *secret, const struct hello_lane *hello, uint8_t *mac)
{
	uint8_t text[SESSION_ID_BYTES + 4];
	int ret;

	memcpy(text, hello->session, SESSION_ID_BYTES);
	wire_put_u32(text + SESSION_ID_BYTES, hello->number);
	ret = gnutls_hmac_fast(GNUTLS_MAC_SHA256, secret, SECRET_BYTES, text, sizeof(text), mac);
	return ret == 0 ? 0 : crypto_error("no HMAC", ret);
}

int lane_prove(const uint8_t secret[SECRET_BYTES], struct hello_lane *hello)
{
	return lane_mac(secret, hello, hello->mac);
}

int lane_check(const uint8_t secret[SECRET_BYTES], const struct hello_lane *hello)
{
	uint8_t mac[MAC_BYTES];
	int ret = lane_mac(secret, hello, mac);

	if (ret < 0)
		return ret;
	return gnutls_memcmp(mac, hello->mac, MAC_BYTES) == 0 ? 0 : -EACCES;
}
