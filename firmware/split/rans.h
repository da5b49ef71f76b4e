/* The coder of split features: rANS with a 32-bit state and integer tables. docs/split.md has the format.
 *
 * C99, no heap, no float, no stdio, nothing kept between calls. The block between the cffi marks is plain C
 * that Python parses.
 */
#ifndef BITSHIP_RANS_H
#define BITSHIP_RANS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

enum bitship_rans_error {
    BITSHIP_RANS_OK = 0,
    BITSHIP_RANS_ARGUMENT = -1,  /* a null pointer, an extent below 1 */
    BITSHIP_RANS_SPACE = -2,     /* the encoder's buffer is full */
    BITSHIP_RANS_SHORT = -3,     /* fewer than 4 bytes */
    BITSHIP_RANS_STATE = -4,     /* the first state is below 2^23 */
    BITSHIP_RANS_END = -5,       /* the stream ends before its symbols do */
    BITSHIP_RANS_FINAL = -6,     /* the last state is another than 2^23 */
    BITSHIP_RANS_LEFT_OVER = -7, /* bytes behind the last symbol */
    BITSHIP_RANS_ESCAPE = -8,    /* an escaped symbol that has a code of its own: no encoder writes that */
    BITSHIP_RANS_TABLE = -9      /* a row does not start at 0, rise strictly and end at 4096 */
};

/* One rung's tables, of `channels` channels: constant, may live in flash.
 *   offset      [channels] the symbol that code 0 stands for
 *   cumulative  [channels][33] 0 .. 4096, strictly rising; code 31 is the escape */
struct bitship_rans_tables {
    const int8_t *offset;
    const uint16_t *cumulative;
    int32_t channels;
};

/* BITSHIP_RANS_OK, _ARGUMENT or _TABLE. To be called once for tables that came from outside. */
int32_t bitship_rans_check(const struct bitship_rans_tables *tables);

/* Encode symbols [channels][pixels] into the end of out[capacity]. Returns the stream's bytes, which begin at
 * out + capacity - bytes, or a negative error. Seven bytes of the buffer must still be free before every
 * symbol: capacity 3 * symbols + 7 is always enough, the stream's bytes + 3 for the stream at hand. */
int32_t bitship_rans_encode(const struct bitship_rans_tables *tables, const int8_t *symbols, int32_t pixels,
                            uint8_t *out, int32_t capacity);

/* Decode a whole stream into symbols [channels][pixels]. BITSHIP_RANS_OK or a negative error; symbols may be
 * partly written then. Reads no byte outside stream[bytes], whatever is in it. */
int32_t bitship_rans_decode(const struct bitship_rans_tables *tables, const uint8_t *stream, int32_t bytes,
                            int8_t *symbols, int32_t pixels);

/* The symbols of a rung: codes [pixels][channels] (as a head leaves them) to symbols [channels][pixels],
 * clamp((code - zero_point + half) >> shift) to int8. shift 0 .. 7. */
int32_t bitship_rans_symbols(const int8_t *codes, int32_t pixels, int32_t channels, int32_t zero_point,
                             int32_t shift, int8_t *symbols);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
