/* SPDX-License-Identifier: MIT */
/*
 * Each state reads one field of fixed or announced length into stream.field and then calls its
 * handler, which checks the field, enters the next state, and may report an item. Fields are given
 * on as BYTES as they come, except the headers of RAM records: these are held until they are
 * complete.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "stream_states.h"

#define MAGIC	0x5145564du /* "QEVM" */
#define VERSION 3u

enum element_type {
	ELEMENT_START = 0x01,
	ELEMENT_PART = 0x02,
	ELEMENT_END = 0x03,
	ELEMENT_FULL = 0x04,
	ELEMENT_SUBSECTION = 0x05,
	ELEMENT_CONFIGURATION = 0x07,
	ELEMENT_COMMAND = 0x08,
	ELEMENT_FOOTER = 0x7e,
};

#define SUBSECTION_VERSION 1u
#define TARGET_PAGE_BITS   12u
#define CAPABILITIES_MAX   64u
#define RAM_INSTANCE	   0u
#define RAM_VERSION	   4u

enum command_number {
	COMMAND_OPEN_RETURN_PATH = 1,
	COMMAND_PING = 2,
	COMMAND_POSTCOPY_ADVISE = 3,
	COMMAND_SWITCHOVER_START = 11,
};

static const struct rule rules[STATE_OPAQUE + 1];

void stream_enter_sized(struct stream *s, enum state state, size_t bytes)
{
	s->state = state;
	s->want = bytes;
	s->have = 0;
}

void stream_enter(struct stream *s, enum state state)
{
	stream_enter_sized(s, state, rules[state].bytes);
}

/* Bytes of the stream in a text for people. */
static void make_printable(char *text)
{
	for (; *text != '\0'; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

int stream_refuse(struct stream *s, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(s->reason, sizeof(s->reason), format, arguments);
	va_end(arguments);
	make_printable(s->reason);
	stream_enter(s, STATE_OPAQUE);
	if (s->committed) {
		s->error = -EPROTO;
		return -EPROTO;
	}
	s->passing = true;
	return STREAM_PASS;
}

bool stream_field_to_name(const struct stream *s, char name[STREAM_ID_MAX])
{
	memcpy(name, s->field, s->want);
	name[s->want] = '\0';
	return s->want > 0 && strlen(name) == s->want;
}

/* The state that follows in the list reads as many bytes as this one says. */
static int read_length(struct stream *s)
{
	stream_enter_sized(s, s->state + 1, s->field[0]);
	return STREAM_MORE;
}

static int read_magic(struct stream *s)
{
	if (s->field[0] == 0x16 && s->field[1] == 0x03)
		return stream_refuse(s, "TLS");
	if (be32_get(s->field) != MAGIC)
		return stream_refuse(s, "no migration stream: begins with %08x",
				     be32_get(s->field));
	stream_enter(s, STATE_VERSION);
	return STREAM_MORE;
}

static int read_version(struct stream *s)
{
	if (be32_get(s->field) != VERSION)
		return stream_refuse(s, "stream version %u", be32_get(s->field));
	stream_enter(s, STATE_CONFIGURATION);
	return STREAM_MORE;
}

/*
 * Type and length of the machine's name. Machine types before 2.4 have no CONFIGURATION, and no
 * footers either.
 */
static int read_configuration(struct stream *s)
{
	uint32_t length = be32_get(s->field + 1);

	if (s->field[0] != ELEMENT_CONFIGURATION)
		return stream_refuse(s, "element 0x%02x instead of a configuration", s->field[0]);
	if (length >= STREAM_ID_MAX)
		return stream_refuse(s, "a machine type's name of %u bytes", length);
	stream_enter_sized(s, STATE_MACHINE, length);
	return STREAM_MORE;
}

static int read_machine(struct stream *s)
{
	if (!stream_field_to_name(s, s->machine))
		return stream_refuse(s, "malformed name of the machine type");
	make_printable(s->machine);
	stream_enter(s, STATE_AFTER_CONFIGURATION);
	return STREAM_MORE;
}

static int read_element(struct stream *s);

static int read_after_configuration(struct stream *s)
{
	if (s->field[0] != ELEMENT_SUBSECTION)
		return read_element(s);
	stream_enter(s, STATE_SUBSECTION_NAME_LENGTH);
	return STREAM_MORE;
}

static int read_subsection_name(struct stream *s)
{
	static const struct {
		const char *name;
		enum state body;
	} known[] = {
		{"configuration/target-page-bits", STATE_PAGE_BITS},
		{"configuration/capabilities", STATE_CAPABILITY_COUNT},
		{"configuration/uuid", STATE_UUID},
	};
	char name[STREAM_ID_MAX];

	if (stream_field_to_name(s, name)) {
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
			if (strcmp(name, known[i].name) != 0)
				continue;
			s->body = known[i].body;
			stream_enter(s, STATE_SUBSECTION_VERSION);
			return STREAM_MORE;
		}
	}
	return stream_refuse(s, "subsection '%s'", name);
}

static int read_subsection_version(struct stream *s)
{
	if (be32_get(s->field) != SUBSECTION_VERSION)
		return stream_refuse(s, "subsection of the configuration in version %u",
				     be32_get(s->field));
	stream_enter(s, s->body);
	return STREAM_MORE;
}

static int read_page_bits(struct stream *s)
{
	uint32_t bits = be32_get(s->field);

	if (bits != TARGET_PAGE_BITS)
		return stream_refuse(s, "target pages of 2^%u bytes", bits);
	stream_enter(s, STATE_AFTER_CONFIGURATION);
	return STREAM_MORE;
}

static void enter_capability(struct stream *s)
{
	stream_enter(s, s->capabilities > 0 ? STATE_CAPABILITY_LENGTH : STATE_AFTER_CONFIGURATION);
}

static int read_capability_count(struct stream *s)
{
	s->capabilities = be32_get(s->field);
	if (s->capabilities > CAPABILITIES_MAX)
		return stream_refuse(s, "%u capabilities", s->capabilities);
	enter_capability(s);
	return STREAM_MORE;
}

static int read_capability(struct stream *s)
{
	char name[STREAM_ID_MAX];

	if (!stream_field_to_name(s, name) || strcmp(name, "x-ignore-shared") != 0)
		return stream_refuse(s, "capability '%s'", name);
	s->ignore_shared = true;
	s->capabilities--;
	enter_capability(s);
	return STREAM_MORE;
}

static int read_uuid(struct stream *s)
{
	stream_enter(s, STATE_AFTER_CONFIGURATION);
	return STREAM_MORE;
}

static int read_element(struct stream *s)
{
	s->type = s->field[0];
	switch (s->type) {
	case ELEMENT_START:
	case ELEMENT_FULL:
		s->return_path_known = true;
		stream_enter(s, STATE_SECTION_NUMBER);
		return STREAM_MORE;
	case ELEMENT_PART:
	case ELEMENT_END:
		stream_enter(s, STATE_PART_NUMBER);
		return STREAM_MORE;
	case ELEMENT_COMMAND:
		stream_enter(s, STATE_COMMAND);
		return STREAM_MORE;
	default:
		return stream_refuse(s, "element 0x%02x", s->type);
	}
}

static int read_command(struct stream *s)
{
	static const struct {
		bool known;
		uint16_t length;
	} commands[] = {
		[COMMAND_OPEN_RETURN_PATH] = {true, 0},
		[COMMAND_PING] = {true, 4},
		/* For dirty-bitmaps alone; for postcopy-ram it has 16 bytes. */
		[COMMAND_POSTCOPY_ADVISE] = {true, 0},
		[COMMAND_SWITCHOVER_START] = {true, 0},
	};
	uint16_t number = be16_get(s->field), length = be16_get(s->field + 2);

	if (number >= sizeof(commands) / sizeof(commands[0]) || !commands[number].known)
		return stream_refuse(s, "command %u", number);
	if (number == COMMAND_POSTCOPY_ADVISE && length > 0)
		return stream_refuse(s, "postcopy-ram");
	if (length != commands[number].length)
		return stream_refuse(s, "command %u of %u bytes", number, length);
	s->return_path |= number == COMMAND_OPEN_RETURN_PATH;
	s->switchover_start |= number == COMMAND_SWITCHOVER_START;
	stream_enter_sized(s, STATE_COMMAND_DATA, length);
	return STREAM_MORE;
}

static int read_command_data(struct stream *s)
{
	stream_enter(s, STATE_ELEMENT);
	return STREAM_MORE;
}

static int read_section_number(struct stream *s)
{
	if (s->block_count == 0)
		s->ram_id = be32_get(s->field);
	stream_enter(s, STATE_SECTION_NAME_LENGTH);
	return STREAM_MORE;
}

/*
 * Other devices that are iterated over have pages or blocks of their own in the stream, and those
 * whose state comes early change what RAM is.
 */
static int read_section_name(struct stream *s)
{
	char name[STREAM_ID_MAX];

	if (!stream_field_to_name(s, name) || s->type != ELEMENT_START || strcmp(name, "ram") != 0)
		return stream_refuse(s, "section '%s'", name);
	if (s->block_count > 0)
		return stream_refuse(s, "a second section 'ram'");
	stream_enter(s, STATE_SECTION_VERSION);
	return STREAM_MORE;
}

static int read_section_version(struct stream *s)
{
	uint32_t instance = be32_get(s->field), version = be32_get(s->field + 4);

	if (instance != RAM_INSTANCE || version != RAM_VERSION)
		return stream_refuse(s, "section 'ram', instance %u, version %u", instance,
				     version);
	s->section = STREAM_START;
	stream_enter(s, STATE_RECORD);
	return STREAM_MORE;
}

static int read_part_number(struct stream *s)
{
	uint32_t number = be32_get(s->field);

	if (s->block_count == 0 || number != s->ram_id)
		return stream_refuse(s, "data of section %u, which has not begun", number);
	s->section = s->type == ELEMENT_END ? STREAM_END : STREAM_PART;
	s->sections += s->section == STREAM_PART;
	stream_enter(s, STATE_RECORD);
	return STREAM_MORE;
}

static int read_footer(struct stream *s)
{
	if (s->field[0] != ELEMENT_FOOTER || be32_get(s->field + 1) != s->ram_id)
		return stream_refuse(s, "no footer behind section 'ram'");
	if (s->section != STREAM_END) {
		stream_enter(s, STATE_ELEMENT);
		return STREAM_MORE;
	}
	s->finished = true;
	stream_enter(s, STATE_OPAQUE);
	return STREAM_TAIL;
}

static const struct rule rules[STATE_OPAQUE + 1] = {
	[STATE_MAGIC] = {4, false, read_magic},
	[STATE_VERSION] = {4, false, read_version},
	[STATE_CONFIGURATION] = {5, false, read_configuration},
	[STATE_MACHINE] = {0, false, read_machine},
	[STATE_AFTER_CONFIGURATION] = {1, false, read_after_configuration},
	[STATE_SUBSECTION_NAME_LENGTH] = {1, false, read_length},
	[STATE_SUBSECTION_NAME] = {0, false, read_subsection_name},
	[STATE_SUBSECTION_VERSION] = {4, false, read_subsection_version},
	[STATE_PAGE_BITS] = {4, false, read_page_bits},
	[STATE_CAPABILITY_COUNT] = {4, false, read_capability_count},
	[STATE_CAPABILITY_LENGTH] = {1, false, read_length},
	[STATE_CAPABILITY] = {0, false, read_capability},
	[STATE_UUID] = {16, false, read_uuid},
	[STATE_ELEMENT] = {1, false, read_element},
	[STATE_COMMAND] = {4, false, read_command},
	[STATE_COMMAND_DATA] = {0, false, read_command_data},
	[STATE_SECTION_NUMBER] = {4, false, read_section_number},
	[STATE_SECTION_NAME_LENGTH] = {1, false, read_length},
	[STATE_SECTION_NAME] = {0, false, read_section_name},
	[STATE_SECTION_VERSION] = {8, false, read_section_version},
	[STATE_BLOCK_NAME_LENGTH] = {1, false, stream_read_block_name_length},
	[STATE_BLOCK_NAME] = {0, false, stream_read_block_name},
	[STATE_BLOCK_BYTES] = {0, false, stream_read_block_bytes},
	[STATE_PART_NUMBER] = {4, false, read_part_number},
	[STATE_RECORD] = {8, true, stream_read_record},
	[STATE_RECORD_NAME_LENGTH] = {1, true, read_length},
	[STATE_RECORD_NAME] = {0, true, stream_read_record_name},
	[STATE_RECORD_FILL] = {1, true, stream_read_record_fill},
	[STATE_RECORD_XBZRLE] = {3, true, stream_read_record_xbzrle},
	[STATE_RECORD_COMPRESS] = {4, true, stream_read_record_compress},
	[STATE_FOOTER] = {5, false, read_footer},
	[STATE_OPAQUE] = {0, false, NULL},
};

/* Reads fields that are all held or all not, until one reports something or the input ends. */
static int read_fields(struct stream *s, const uint8_t *data, size_t length, size_t *used)
{
	bool held = rules[s->state].held;
	int kind = STREAM_MORE;

	while (kind == STREAM_MORE && rules[s->state].held == held) {
		size_t part = s->want - s->have;

		if (part > length - *used)
			part = length - *used;
		if (part > 0)
			memcpy(s->field + s->have, data + *used, part);
		s->have += part;
		*used += part;
		if (s->have < s->want)
			break;
		if (held) {
			memcpy(s->held + s->held_length, s->field, s->want);
			s->held_length += s->want;
		}
		kind = rules[s->state].handle(s);
	}
	return kind;
}

static void report(struct stream *s, enum stream_kind kind, struct stream_item *item)
{
	item->kind = kind;
	if (kind == STREAM_BYTES) {
		item->bytes = s->held;
		item->length = s->held_length;
		s->held_length = 0;
	} else if (kind == STREAM_PASS && s->held_length > 0) {
		s->pending = STREAM_BYTES;
	} else if (kind == STREAM_RECORD) {
		item->record = (struct stream_record){
			.section = s->section,
			.flags = s->flags,
			.block = s->block < s->block_count ? s->block : 0,
			.offset = s->offset,
			.header = s->header,
			.header_length = s->header_length,
			.payload = s->payload,
		};
	}
}

void stream_init(struct stream *s)
{
	/* Too large for a compound literal on the stack. */
	memset(s, 0, sizeof(*s));
	s->block = STREAM_BLOCKS_MAX;
	stream_enter(s, STATE_MAGIC);
}

ssize_t stream_next(struct stream *s, const uint8_t *data, size_t length, struct stream_item *item)
{
	enum stream_kind pending = s->pending;
	size_t used = 0;
	bool held;
	int kind;

	*item = (struct stream_item){.kind = STREAM_MORE};
	if (s->error < 0)
		return s->error;
	if (pending != STREAM_MORE) {
		s->pending = STREAM_MORE;
		report(s, pending, item);
		return 0;
	}
	held = rules[s->state].held;
	if (s->state == STATE_OPAQUE) {
		kind = STREAM_MORE;
		used = length;
	} else {
		kind = read_fields(s, data, length, &used);
	}
	if (!held && used > 0) {
		*item = (struct stream_item){.kind = STREAM_BYTES, .bytes = data, .length = used};
		s->pending = kind < 0 ? STREAM_MORE : (enum stream_kind)kind;
	} else if (kind < 0) {
		return kind;
	} else {
		report(s, (enum stream_kind)kind, item);
	}
	return (ssize_t)used;
}
