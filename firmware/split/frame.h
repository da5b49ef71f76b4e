/* Frames between a device and a gateway, over a UART or TCP. docs/split.md has the format.
 *
 * C99, no heap, no float, no stdio; the caller owns all memory. The block between the cffi marks is plain C
 * that Python parses.
 */
#ifndef BITSHIP_FRAME_H
#define BITSHIP_FRAME_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BITSHIP_FRAME_HEADER 15
#define BITSHIP_FRAME_EXTRA 19 /* header and CRC */

/* cffi: begin */

enum bitship_frame_kind {
    BITSHIP_FRAME_FEATURES = 1,
    BITSHIP_FRAME_ANSWER = 2,
    BITSHIP_FRAME_HELLO = 3,
    BITSHIP_FRAME_REFUSAL = 4,
    BITSHIP_FRAME_IMAGE = 5
};

enum bitship_frame_codec { BITSHIP_FRAME_RAW = 0, BITSHIP_FRAME_RANS = 1, BITSHIP_FRAME_ZSTD = 2 };

/* One frame. The payload is the caller's: in the reader's buffer, until the reader is fed or asked again. */
struct bitship_frame {
    uint8_t kind;
    uint8_t codec;
    uint8_t rung;
    uint16_t sequence;
    uint16_t payload_bytes;
    uint8_t model[4];
    uint8_t table[4];
    const uint8_t *payload;
};

/* Takes bytes as they come and gives whole frames. `buffer` and `capacity` are set by the caller (a frame of
 * more bytes than the capacity is refused), the rest starts as 0. `dropped` counts the bytes that were no
 * part of a whole frame. */
struct bitship_frame_reader {
    uint8_t *buffer;
    int32_t capacity;
    int32_t length;
    int32_t taken;
    uint32_t dropped;
};

/* Write a frame into out[capacity]; its bytes, or -1 where it does not fit or a field is out of range. The
 * payload may already lie at out + 15. */
int32_t bitship_frame_pack(const struct bitship_frame *frame, uint8_t *out, int32_t capacity);

/* Take as many of the bytes as there is room for; how many. */
int32_t bitship_frame_feed(struct bitship_frame_reader *reader, const uint8_t *data, int32_t bytes);

/* The next whole frame: 1, or 0 when more bytes are needed. After a damaged frame the search goes on at the
 * next start byte, inside what was taken for its payload too. */
int32_t bitship_frame_next(struct bitship_frame_reader *reader, struct bitship_frame *frame);

/* The line fell silent inside a frame: give up on the start byte at hand, and look behind it. As _next. */
int32_t bitship_frame_idle(struct bitship_frame_reader *reader, struct bitship_frame *frame);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
