/* Codes every tensor of an inputs file and writes the streams: `image INPUTS OUTPUTS`.
 *
 * All words are 32-bit little endian. inputs: number of tensors; then each: channels C, pixels P, C offsets,
 * C x 33 cumulative frequencies (uint16), C x P symbols. outputs: each tensor's stream bytes (negative: the
 * encoder's error), counter ticks of encoding and of decoding, the decoder's result (1000: other symbols than
 * were encoded, 1001: a truncated stream was taken), the stream; then the CRC-32 of all of it.
 */
#include "../app/crc.h"
#include "../app/port.h"
#include "rans.h"

#include <stddef.h>

#define MAX_CHANNELS 32
#define MAX_SYMBOLS 1536
#define OTHER_SYMBOLS 1000
#define TRUNCATION_TAKEN 1001

static int8_t offset[MAX_CHANNELS];
static uint16_t cumulative[MAX_CHANNELS * 33];
static int8_t symbols[MAX_SYMBOLS];
static int8_t decoded[MAX_SYMBOLS];
static uint8_t stream[3 * MAX_SYMBOLS + 7];

struct output {
    int32_t handle;
    uint32_t crc;
    int failed;
};

static void put(struct output *out, const void *data, int32_t bytes) {
    out->failed |= port_write(out->handle, data, bytes) != 0;
    out->crc = crc32(out->crc, data, bytes);
}

/* What the decoder says of the stream, and of the stream with its last byte gone. */
static int32_t decode(const struct bitship_rans_tables *t, const uint8_t *from, int32_t bytes,
                      int32_t pixels) {
    const int32_t result = bitship_rans_decode(t, from, bytes, decoded, pixels);
    for (int32_t i = 0; i < t->channels * pixels && result == BITSHIP_RANS_OK; i++) {
        if (decoded[i] != symbols[i]) {
            return OTHER_SYMBOLS;
        }
    }
    if (bitship_rans_decode(t, from, bytes - 1, decoded, pixels) >= 0) {
        return TRUNCATION_TAKEN;
    }
    return result;
}

static int tensor(int32_t in, struct output *out) {
    uint32_t head[2];
    if (port_read(in, head, 8) != 0 || head[0] < 1 || head[0] > MAX_CHANNELS || head[1] < 1 ||
        head[1] > MAX_SYMBOLS / head[0]) {
        return PORT_EXIT_INPUT;
    }
    const int32_t channels = (int32_t)head[0], pixels = (int32_t)head[1];
    if (port_read(in, offset, channels) != 0 || port_read(in, cumulative, channels * 66) != 0 ||
        port_read(in, symbols, channels * pixels) != 0) {
        return PORT_EXIT_INPUT;
    }
    const struct bitship_rans_tables tables = {offset, cumulative, channels};
    if (bitship_rans_check(&tables) != BITSHIP_RANS_OK) {
        return PORT_EXIT_INPUT;
    }
    port_ticks_start();
    const uint64_t start = port_ticks();
    const int32_t bytes = bitship_rans_encode(&tables, symbols, pixels, stream, (int32_t)sizeof stream);
    const uint64_t middle = port_ticks();
    const uint8_t *from = stream + sizeof stream - (bytes > 0 ? bytes : 0);
    (void)bitship_rans_decode(&tables, from, bytes, decoded, pixels);
    const uint64_t end = port_ticks();
    const int32_t result = bytes < 0 ? bytes : decode(&tables, from, bytes, pixels);
    const uint32_t report[4] = {(uint32_t)bytes, (uint32_t)(middle - start), (uint32_t)(end - middle),
                                (uint32_t)result};
    put(out, report, 16);
    if (bytes > 0) {
        put(out, from, bytes);
    }
    return out->failed ? PORT_EXIT_USAGE : PORT_EXIT_OK;
}

int port_main(void) {
    char line[256];
    if (port_command_line(line, (int32_t)sizeof line) != 0) {
        return PORT_EXIT_USAGE;
    }
    char *names[3] = {NULL, NULL, NULL};
    int n = 0;
    for (char *p = line; *p != 0 && n < 3; n++) {
        names[n] = p;
        while (*p != 0 && *p != ' ') {
            p++;
        }
        while (*p == ' ') {
            *p++ = 0;
        }
    }
    if (n < 3) {
        return PORT_EXIT_USAGE;
    }
    const int32_t in = port_open(names[1], 0);
    struct output out = {port_open(names[2], 1), 0, 0};
    uint32_t count = 0;
    if (in < 0 || out.handle < 0 || port_read(in, &count, 4) != 0) {
        return PORT_EXIT_USAGE;
    }
    int code = PORT_EXIT_OK;
    for (uint32_t i = 0; i < count && code == PORT_EXIT_OK; i++) {
        code = tensor(in, &out);
    }
    const uint32_t crc = out.crc;
    out.failed |= port_write(out.handle, &crc, 4) != 0;
    port_close(out.handle);
    port_close(in);
    return code != PORT_EXIT_OK ? code : out.failed ? PORT_EXIT_USAGE : PORT_EXIT_OK;
}
