/* Runs the model on every record of an inputs file and writes an outputs file: `image INPUTS OUTPUTS`.
 *
 * All words are 32-bit little endian; every crc is CRC-32 (IEEE 802.3) of the bytes before it in the same
 * part. inputs   "BSIN", number of records, bytes of a record, crc; then each record: all inputs in order,
 * crc outputs  "BSOU", arena bytes, bytes of a record's outputs, digest (64 hexadecimal characters), crc;
 *            then each record: model_run's result, counter ticks (64-bit), all outputs in order, crc;
 *            then "BSND", number of records, stack bytes, arena bytes that were ever written, crc
 */
#include "arena.h"
#include "bitship/kernels.h"
#include "crc.h"
#include "model.h"
#include "port.h"

#define RECORD_DAMAGED 1 /* beside model_run's results, which are 0 or negative */

/* A part of a file, with the crc of what was transferred so far. */
struct part {
    int32_t handle;
    uint32_t crc;
    int failed;
};

static void get(struct part *p, void *data, int32_t bytes) {
    p->failed |= port_read(p->handle, data, bytes) != 0;
    p->crc = crc32(p->crc, data, bytes);
}

static void put(struct part *p, const void *data, int32_t bytes) {
    p->failed |= port_write(p->handle, data, bytes) != 0;
    p->crc = crc32(p->crc, data, bytes);
}

/* Reads the crc that ends a part, and begins the next; 0 when it holds. */
static int check(struct part *p) {
    uint32_t wanted = 0;
    const uint32_t found = p->crc;
    p->failed |= port_read(p->handle, &wanted, 4) != 0;
    p->crc = 0;
    return p->failed || wanted != found ? -1 : 0;
}

static void seal(struct part *p) {
    const uint32_t crc = p->crc;
    p->failed |= port_write(p->handle, &crc, 4) != 0;
    p->crc = 0;
}

#if MODEL_STREAMED
/* The image, read from the inputs file as the model asks for it; what that takes does not count. */
struct feed {
    struct part *in;
    int32_t left;
    uint64_t ticks;
};

static int feed_rows(void *context, int32_t first, int32_t rows, void *to) {
    struct feed *feed = (struct feed *)context;
    const uint64_t start = port_ticks();
    (void)first;
    get(feed->in, to, rows * MODEL_INPUT_0_ROW_BYTES);
    feed->left -= rows * MODEL_INPUT_0_ROW_BYTES;
    feed->ticks += port_ticks() - start;
    return BITSHIP_OK;
}

/* Runs the model, then reads the rows it left out, so that the record's crc can be checked. */
static int32_t run_record(struct part *in, uint64_t *ticks) {
    struct feed feed = {in, MODEL_INPUT_0_BYTES, 0};
    const uint64_t start = port_ticks();
    const int32_t error = model_run_rows(feed_rows, &feed);
    *ticks = port_ticks() - start - feed.ticks;
    while (feed.left > 0) {
        uint8_t rest[64];
        const int32_t bytes = feed.left < (int32_t)sizeof rest ? feed.left : (int32_t)sizeof rest;
        get(in, rest, bytes);
        feed.left -= bytes;
    }
    return check(in) != 0 ? RECORD_DAMAGED : error;
}
#else
static int32_t run_record(struct part *in, uint64_t *ticks) {
    for (int i = 0; i < MODEL_INPUTS; i++) {
        get(in, model_input(i), model_input_bytes(i));
    }
    if (check(in) != 0) {
        return RECORD_DAMAGED;
    }
    const uint64_t start = port_ticks();
    const int32_t error = model_run();
    *ticks = port_ticks() - start;
    return error;
}
#endif

/* One record: read, run, write; 0, or an exit code. */
static int record(struct part *in, struct part *out, uint64_t overhead) {
    uint64_t ticks = 0;
    const int32_t error = run_record(in, &ticks);
    if (error == RECORD_DAMAGED) {
        return PORT_EXIT_INPUT;
    }
    const uint64_t net = ticks > overhead ? ticks - overhead : 0;
    put(out, &error, 4);
    put(out, &net, 8);
    for (int i = 0; i < MODEL_OUTPUTS; i++) {
        put(out, model_output(i), model_output_bytes(i));
    }
    seal(out);
    return out->failed ? PORT_EXIT_USAGE : PORT_EXIT_OK;
}

static int run(struct part *in, struct part *out) {
    uint32_t head[3];
    int32_t bytes = 0, sizes[2] = {MODEL_ARENA_BYTES, 0};
    get(in, head, 12);
    for (int i = 0; i < MODEL_INPUTS; i++) {
        bytes += model_input_bytes(i);
    }
    if (check(in) != 0 || head[0] != 0x4E495342u || head[2] != (uint32_t)bytes) {
        return PORT_EXIT_INPUT;
    }
    for (int i = 0; i < MODEL_OUTPUTS; i++) {
        sizes[1] += model_output_bytes(i);
    }
    put(out, "BSOU", 4);
    put(out, sizes, 8);
    put(out, model_digest, 64);
    seal(out);
    port_ticks_start();
    const uint64_t first = port_ticks();
    const uint64_t overhead = port_ticks() - first;
    for (uint32_t i = 0; i < head[1]; i++) {
        const int code = record(in, out, overhead);
        if (code != PORT_EXIT_OK) {
            return code;
        }
    }
    const int32_t ram[2] = {port_stack_bytes(), arena_used()};
    put(out, "BSND", 4);
    put(out, &head[1], 4);
    put(out, ram, 8);
    seal(out);
    return out->failed ? PORT_EXIT_USAGE : PORT_EXIT_OK;
}

/* The next word of the command line, ended by a zero; NULL at its end. */
static char *word(char **line) {
    char *start = *line;
    while (*start == ' ') {
        start++;
    }
    char *end = start;
    while (*end != ' ' && *end != 0) {
        end++;
    }
    *line = *end == 0 ? end : end + 1;
    *end = 0;
    return *start == 0 ? (char *)0 : start;
}

int port_main(void) {
    char line[128], *rest = line;
    port_stack_paint();
    arena_paint();
    if (port_command_line(line, (int32_t)sizeof line) != 0 || word(&rest) == (char *)0) {
        return PORT_EXIT_USAGE;
    }
    const char *inputs = word(&rest), *outputs = word(&rest);
    if (inputs == (char *)0 || outputs == (char *)0) {
        return PORT_EXIT_USAGE;
    }
    struct part in = {port_open(inputs, 0), 0, 0}, out = {port_open(outputs, 1), 0, 0};
    if (in.handle < 0 || out.handle < 0) {
        return PORT_EXIT_USAGE;
    }
    const int code = run(&in, &out);
    port_close(in.handle);
    port_close(out.handle);
    return code;
}
