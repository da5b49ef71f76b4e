/* Damaged, truncated and forged frames, to be built with sanitizers: fuzz_split FRAMES SEED.
 *
 * Every round packs a frame around a stream of random symbols, damages it (bits, bytes, lengths, cuts,
 * copies; or the stream alone, under a CRC that is right again) and feeds it to the reader in pieces, with an
 * honest frame behind it. What the reader gives is decoded. A round fails where the honest frame does not
 * come through, where a truncated stream is taken, or where a damaged frame comes through with its CRC
 * untouched.
 */
#include "../../firmware/app/crc.h"
#include "../../firmware/split/frame.h"
#include "../../firmware/split/rans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS 4
#define PIXELS 16
#define SYMBOLS (CHANNELS * PIXELS)
#define CAPACITY 256

static uint64_t seed;

static uint32_t below(uint32_t n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32) % n;
}

static int8_t offset[CHANNELS];
static uint16_t cumulative[CHANNELS * 33];
static const struct bitship_rans_tables tables = {offset, cumulative, CHANNELS};
static long truncated, truncated_refused, forged, forged_taken, damaged, damaged_taken, honest;

static void fail(const char *what) {
    printf("fuzz_split: %s\n", what);
    exit(1);
}

static void new_tables(void) {
    for (int c = 0; c < CHANNELS; c++) {
        offset[c] = (int8_t)((int)below(256) - 128);
        uint16_t *row = cumulative + 33 * c;
        uint16_t f[32];
        int left = 4096 - 32;
        for (int i = 0; i < 32; i++) {
            const int more = i == 31 ? left : (int)below((uint32_t)left / 4 + 1);
            f[i] = (uint16_t)(1 + more);
            left -= more;
        }
        row[0] = 0;
        for (int i = 0; i < 32; i++) {
            row[i + 1] = (uint16_t)(row[i] + f[i]);
        }
    }
    if (bitship_rans_check(&tables) != BITSHIP_RANS_OK) {
        fail("honest tables are refused");
    }
}

/* A stream of its own allocation, so that a read past its end is seen. */
static int32_t decode(const uint8_t *from, int32_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? (size_t)bytes : 1);
    int8_t *symbols = malloc(SYMBOLS);
    if (copy == NULL || symbols == NULL) {
        fail("no memory");
    }
    memcpy(copy, from, (size_t)bytes);
    const int32_t result = bitship_rans_decode(&tables, copy, bytes, symbols, PIXELS);
    free(copy);
    free(symbols);
    return result;
}

static int32_t damage(uint8_t *data, int32_t bytes) {
    for (uint32_t n = 1 + below(4); n > 0 && bytes > 0; n--) {
        const uint32_t at = below((uint32_t)bytes);
        switch (below(6)) {
        case 0:
            data[at] ^= (uint8_t)(1u << below(8));
            break;
        case 1:
            data[at] = (uint8_t)below(256);
            break;
        case 2: /* the length that the header states */
            if (bytes > 6) {
                data[5] = (uint8_t)below(256);
                data[6] = (uint8_t)(below(4) ? 0 : below(256));
            }
            break;
        case 3:
            bytes = (int32_t)at;
            break;
        case 4: /* another start in the middle */
            data[at] = 0xB5;
            break;
        default: { /* a copy of a later or an earlier part */
            const uint32_t source = below((uint32_t)bytes), last = at > source ? at : source;
            memmove(data + at, data + source, below((uint32_t)bytes - last + 1));
            break;
        }
        }
    }
    return bytes;
}

static void round_of(uint32_t number) {
    if (number % 64 == 0) {
        new_tables();
    }
    int8_t symbols[SYMBOLS];
    const int32_t spread = 1 << below(8);
    for (int i = 0; i < SYMBOLS; i++) {
        const int32_t value = offset[i / PIXELS] + 15 + (int32_t)below((uint32_t)spread) - spread / 2;
        symbols[i] = (int8_t)(value > 127 ? 127 : value < -128 ? -128 : value);
    }
    uint8_t stream[3 * SYMBOLS + 7];
    const int32_t capacity = (int32_t)sizeof stream;
    int32_t bytes = bitship_rans_encode(&tables, symbols, PIXELS, stream, capacity);
    uint8_t *from = stream + capacity - bytes;
    if (bytes < 4 || decode(from, bytes) != BITSHIP_RANS_OK) {
        fail("an honest stream is refused");
    }
    const uint32_t kind = below(3);
    if (kind == 0) {
        truncated++;
        bytes = (int32_t)below((uint32_t)bytes);
        if (decode(from, bytes) == BITSHIP_RANS_OK) {
            fail("a truncated stream is taken");
        }
        truncated_refused++;
    } else if (kind == 1) {
        forged++;
        bytes = damage(from, bytes);
    }
    struct bitship_frame frame = {
        .kind = BITSHIP_FRAME_FEATURES, .codec = BITSHIP_FRAME_RANS, .payload = from};
    frame.sequence = (uint16_t)number;
    frame.payload_bytes = (uint16_t)bytes;
    uint8_t sent[2 * CAPACITY];
    const int32_t whole = bitship_frame_pack(&frame, sent, CAPACITY);
    uint8_t before[CAPACITY];
    memcpy(before, sent, sizeof before);
    int32_t length = whole;
    if (kind == 2) {
        length = damage(sent, whole);
        damaged++;
    }
    const int changed = length != whole || memcmp(before, sent, (size_t)whole) != 0;
    frame.kind = BITSHIP_FRAME_HELLO;
    frame.payload_bytes = 0;
    length += bitship_frame_pack(&frame, sent + length, CAPACITY);

    uint8_t *held = malloc(CAPACITY);
    struct bitship_frame_reader reader = {held, CAPACITY, 0, 0, 0};
    struct bitship_frame got;
    int seen_honest = 0;
    for (int32_t at = 0, idle = 0; at < length || !idle;) {
        if (at < length) {
            const int32_t piece = 1 + (int32_t)below(64);
            at += bitship_frame_feed(&reader, sent + at, piece < length - at ? piece : length - at);
        } else {
            idle = 1;
        }
        while (idle ? bitship_frame_idle(&reader, &got) : bitship_frame_next(&reader, &got)) {
            seen_honest |= got.kind == BITSHIP_FRAME_HELLO && got.sequence == (uint16_t)number;
            if (got.kind != BITSHIP_FRAME_FEATURES) {
                continue;
            }
            if (kind == 2 && changed) {
                damaged_taken++;
            }
            const int32_t result = decode(got.payload, got.payload_bytes);
            if (kind == 0 && result == BITSHIP_RANS_OK) {
                fail("a truncated stream is taken");
            }
            forged_taken += kind == 1 && result == BITSHIP_RANS_OK;
        }
    }
    free(held);
    if (!seen_honest) {
        fail("an honest frame behind a damaged one is lost");
    }
    honest++;
}

int main(int argc, char **argv) {
    const unsigned long frames = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    seed = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) * 0x9E3779B97F4A7C15u + 1;
    for (unsigned long i = 0; i < frames; i++) {
        round_of((uint32_t)i);
    }
    printf(
        "fuzz_split: %lu frames: %ld of %ld truncations refused, %ld of %ld frames with a wrong CRC taken, "
        "%ld of %ld forged streams decoded, %ld of %lu honest frames behind them found, no fault\n",
        frames, truncated_refused, truncated, damaged_taken, damaged, forged_taken, forged, honest, frames);
    return damaged_taken == 0 ? 0 : 1;
}
