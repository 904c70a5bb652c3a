/* SPDX-License-Identifier: MIT */
#include "transport/handshake.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
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

void answer_encode(const struct answer *answer, uint8_t bytes[ANSWER_BYTES])
{
	prefix_encode(answer->status, bytes);
	memcpy(bytes + 12, answer->session, SESSION_ID_BYTES);
	memcpy(bytes + 28, answer->secret, SECRET_BYTES);
	wire_put_u32(bytes + 60, answer->lanes);
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

void answer_decode(const uint8_t *body, struct answer *answer)
{
	memcpy(answer->session, body, SESSION_ID_BYTES);
	memcpy(answer->secret, body + 16, SECRET_BYTES);
	answer->lanes = (uint32_t)wire_get(body + 48, 4);
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
