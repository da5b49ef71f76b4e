/* Frames: packed, and found again in a stream of bytes that may be damaged anywhere. */
#include "frame.h"

#include <stddef.h>

#include "../app/crc.h"

#define START 0xB5u
#define VERSION 1u

static void put16(uint8_t *to, uint32_t value) {
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static uint16_t get16(const uint8_t *from) { return (uint16_t)(from[0] | from[1] << 8); }

static void copy(uint8_t *to, const uint8_t *from, int32_t bytes) {
    for (int32_t i = 0; i < bytes; i++) {
        to[i] = from[i];
    }
}

int32_t bitship_frame_pack(const struct bitship_frame *frame, uint8_t *out, int32_t capacity) {
    if (frame == NULL || out == NULL || capacity < BITSHIP_FRAME_EXTRA + frame->payload_bytes) {
        return -1;
    }
    if (frame->kind > 15 || frame->codec > 15 || frame->rung > 15) {
        return -1;
    }
    out[0] = START;
    out[1] = (uint8_t)(VERSION << 4 | frame->kind);
    out[2] = (uint8_t)(frame->codec << 4 | frame->rung);
    put16(out + 3, frame->sequence);
    put16(out + 5, frame->payload_bytes);
    copy(out + 7, frame->model, 4);
    copy(out + 11, frame->table, 4);
    if (frame->payload != out + BITSHIP_FRAME_HEADER) {
        copy(out + BITSHIP_FRAME_HEADER, frame->payload, frame->payload_bytes);
    }
    const int32_t bytes = BITSHIP_FRAME_HEADER + frame->payload_bytes;
    const uint32_t crc = crc32(0, out, bytes);
    put16(out + bytes, crc);
    put16(out + bytes + 2, crc >> 16);
    return bytes + 4;
}

/* Move what was not taken to the start of the buffer. */
static void settle(struct bitship_frame_reader *reader) {
    if (reader->taken > 0) {
        reader->length -= reader->taken;
        copy(reader->buffer, reader->buffer + reader->taken, reader->length);
        reader->taken = 0;
    }
}

int32_t bitship_frame_feed(struct bitship_frame_reader *reader, const uint8_t *data, int32_t bytes) {
    settle(reader);
    const int32_t room = reader->capacity - reader->length;
    const int32_t taken = bytes < room ? bytes : room;
    copy(reader->buffer + reader->length, data, taken);
    reader->length += taken;
    return taken;
}

/* The bytes of the frame that begins at `at`, 0 where more are needed to tell, -1 where none begins. */
static int32_t frame_bytes(const uint8_t *at, int32_t bytes, int32_t capacity) {
    if (at[0] != START || (bytes > 1 && at[1] >> 4 != VERSION)) {
        return -1;
    }
    if (bytes < 7) {
        return 0;
    }
    const int32_t whole = BITSHIP_FRAME_EXTRA + get16(at + 5);
    return whole > capacity ? -1 : whole;
}

static int is_whole(const uint8_t *at, int32_t bytes) {
    const uint8_t *crc = at + bytes - 4;
    return crc32(0, at, bytes - 4) == ((uint32_t)get16(crc) | (uint32_t)get16(crc + 2) << 16);
}

static int32_t find(struct bitship_frame_reader *reader, struct bitship_frame *frame, int32_t at) {
    int32_t found = 0;
    while (at < reader->length) {
        const uint8_t *p = reader->buffer + at;
        const int32_t left = reader->length - at;
        const int32_t bytes = frame_bytes(p, left, reader->capacity);
        if (bytes == 0 || bytes > left) {
            break;
        }
        if (bytes > 0 && is_whole(p, bytes)) {
            frame->kind = p[1] & 15u;
            frame->codec = p[2] >> 4;
            frame->rung = p[2] & 15u;
            frame->sequence = get16(p + 3);
            frame->payload_bytes = get16(p + 5);
            copy(frame->model, p + 7, 4);
            copy(frame->table, p + 11, 4);
            frame->payload = p + BITSHIP_FRAME_HEADER;
            found = bytes;
            break;
        }
        at++;
        reader->dropped++;
    }
    reader->taken = at + found;
    return found > 0;
}

int32_t bitship_frame_next(struct bitship_frame_reader *reader, struct bitship_frame *frame) {
    return find(reader, frame, reader->taken);
}

int32_t bitship_frame_idle(struct bitship_frame_reader *reader, struct bitship_frame *frame) {
    if (find(reader, frame, reader->taken)) {
        return 1;
    }
    while (reader->taken < reader->length) {
        reader->dropped++;
        if (find(reader, frame, reader->taken + 1)) {
            return 1;
        }
    }
    return 0;
}
