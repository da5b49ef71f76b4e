#include "extensions.h"

#include "arena.h"
#include "bitship/kernels.h"
#include "crc.h"
#include "port.h"
#include "pulse.h"
#include "text.h"
#include "work.h"

#define DIGITS 8       /* of a crc */
#define DATA_BYTES 128 /* of memory in one line */

static const char *sequence;
static uint32_t lines;

static void begin(const char *kind) {
    put_text("m-x-");
    text_crc_start();
    put_text(sequence);
    put_text("-");
    put_number(lines++);
    put_text("-");
    put_text(kind);
    put_text("-[");
}

static void finish(void) {
    put_text("]");
    const uint32_t crc = text_crc();
    put_text("-");
    put_hex(crc, DIGITS);
    put_line("");
}

static void put_ticks(uint64_t ticks) {
    put_hex((uint32_t)(ticks >> 32), 8);
    put_hex((uint32_t)ticks, 8);
}

static void field(const char *name, uint64_t value) {
    put_text(" ");
    put_text(name);
    put_text("=");
    put_number(value);
}

static void refuse(const char *what) {
    begin("err");
    put_text(what);
    finish();
}

/* The end of a command that ran the model; 0 is not a success of any other kind. */
static void end_of_run(int32_t error) {
    if (error != BITSHIP_OK) {
        begin("err");
        put_text(error < 0 ? "kernel " : "rows ");
        put_number((uint64_t)(error < 0 ? -(int64_t)error : error));
        finish();
        return;
    }
    begin("end");
    put_text("input=");
    put_hex(work_input_crc(), DIGITS);
    put_text(" output=");
    put_hex(work_output_crc(), DIGITS);
    finish();
}

static void info(void) {
    begin("data");
    put_text("digest=");
    put_text(model_digest);
    finish();
    begin("data");
    put_text("protocol=1");
    field("energy", BITSHIP_ENERGY);
    field("line", SERIAL_LINE);
    field("streamed", MODEL_STREAMED);
    field("steps", MODEL_STEPS);
    field("vectors", SERIAL_VECTORS);
    finish();
    begin("data");
    put_text("timer");
#if defined(BITSHIP_COUNTER_NUMERATOR)
    field("instructions", 1);
#else
    field("instructions", 0);
#endif
#if defined(WORK_HZ)
    field("hz", WORK_HZ);
#endif
    field("resolution", work_resolution());
    field("overhead", work_overhead());
    finish();
    begin("data");
    put_text("bytes");
    field("weights", MODEL_WEIGHTS_BYTES);
    field("arena", MODEL_ARENA_BYTES);
    field("buffer", SERIAL_BUFFER);
    field("arena_used", (uint64_t)arena_used());
    field("stack_used", (uint64_t)port_stack_bytes());
    finish();
    begin("end");
    finish();
}

#if !MODEL_STREAMED
static void load(char *rest) {
    const int32_t at = text_number(text_word(&rest));
    const char *digits = text_word(&rest);
    if (at < 0 || at > SERIAL_INPUT_BYTES || digits == (const char *)0) {
        refuse("load: an offset and bytes are needed");
        return;
    }
    work_converted = 0;
    const int32_t count = text_bytes(digits, work_input + at, SERIAL_INPUT_BYTES - at);
    if (count < 0) {
        refuse("load: bytes are no hexadecimal digits, or too many");
        return;
    }
    begin("end");
    put_number((uint64_t)(at + count));
    finish();
}
#endif

static void run(char *rest) {
    const int32_t runs = text_number(text_word(&rest));
    int32_t error = BITSHIP_OK;
    if (runs < 1) {
        refuse("run: how many, 1 or more");
        return;
    }
    for (int32_t i = 0; i < runs && error == BITSHIP_OK; i++) {
        uint64_t ticks;
        port_uart_flush();
        work_anew();
        error = work_run(&ticks);
        if (error == BITSHIP_OK) {
            begin("data");
            put_ticks(ticks);
            finish();
        }
    }
    end_of_run(error);
}

static void burst(char *rest) {
    const int32_t runs = text_number(text_word(&rest));
    uint64_t ticks = 0;
    if (runs < 1) {
        refuse("burst: how many, 1 or more");
        return;
    }
    if (MODEL_STREAMED) {
        refuse("burst: the image comes over the link, which cannot be silent");
        return;
    }
    begin("data");
    put_text("start");
    finish();
    port_uart_flush();
    work_anew();
    pulse();
    const int32_t error = work_burst(runs, &ticks);
    pulse();
    begin("data");
    put_ticks(ticks);
    finish();
    end_of_run(error);
}

#if SERIAL_VECTORS
static void test(void) {
    int32_t right = 0;
    for (int32_t i = 0; i < SERIAL_VECTORS; i++) {
        uint64_t ticks = 0;
        int passed = 0;
        port_uart_flush();
        work_anew();
        const int32_t error = work_test(i, &ticks, &passed);
        right += passed;
        begin("data");
        put_text(passed ? "passed " : error == BITSHIP_OK ? "differs " : "failed ");
        put_ticks(ticks);
        finish();
    }
    begin("end");
    put_text("passed=");
    put_number((uint64_t)right);
    field("vectors", SERIAL_VECTORS);
    finish();
}
#endif

static void profile(char *rest) {
    static uint64_t ticks[WORK_PROFILED]; /* not on the stack that every run needs */
    const int32_t first = text_number(text_word(&rest));
    if (first < 0 || first >= MODEL_STEPS) {
        refuse("profile: there is no such step");
        return;
    }
    port_uart_flush();
    work_anew();
    const int32_t error = work_profile(first, ticks);
    for (int32_t i = 0; error == BITSHIP_OK && i < WORK_PROFILED && first + i < MODEL_STEPS; i++) {
        begin("data");
        put_ticks(ticks[i]);
        finish();
    }
    end_of_run(error);
}

static void stop_behind(char *rest) {
    const int32_t step = text_number(text_word(&rest));
    if (step < 0 || step >= MODEL_STEPS) {
        refuse("prefix: there is no such step");
        return;
    }
    const int32_t error = work_prefix(step);
    if (error != BITSHIP_OK) {
        end_of_run(error);
        return;
    }
    begin("end");
    put_text("input=");
    put_hex(work_input_crc(), DIGITS);
    put_text(" step=");
    put_number((uint64_t)step);
    finish();
}

/* Lines of memory, then the crc of them all; `step` tells which prefix ran last, nothing when a whole run
 * did. */
static void memory(const uint8_t *from, int32_t size, char *rest) {
    const int32_t at = text_number(text_word(&rest)), count = text_number(text_word(&rest));
    if (from == (const uint8_t *)0 || at < 0 || count < 1 || at > size || count > size - at) {
        refuse("there is no such memory");
        return;
    }
    for (int32_t i = 0; i < count; i += DATA_BYTES) {
        begin("data");
        put_bytes(from + at + i, count - i < DATA_BYTES ? count - i : DATA_BYTES);
        finish();
    }
    begin("end");
    put_text("crc=");
    put_hex(crc32(0, from + at, count), DIGITS);
    if (work_stopped_behind() >= 0) {
        put_text(" step=");
        put_number((uint64_t)work_stopped_behind());
    }
    finish();
}

static void out(char *rest) {
    const int32_t i = text_number(text_word(&rest));
    memory((const uint8_t *)model_output((int)i), model_output_bytes((int)i), rest);
}

static void look(char *rest) {
    int32_t size = 0;
    const int32_t i = text_number(text_word(&rest));
    const uint8_t *from = model_memory((int)i, &size);
    memory(from, size, rest);
}

#if MODEL_STREAMED
static char row_line[SERIAL_LINE];

/* Splits a command into its sequence number and its words, the crc taken off; 0, or -1 when it does not hold.
 */
static int32_t opened(char *line, char **words);

static void ask_for(int32_t from, int32_t end) {
    begin("rows");
    put_number((uint64_t)from);
    put_text(" ");
    put_number((uint64_t)end);
    finish();
}

/* Asks the host for bytes of the image, and takes them piece by piece; anything else ends the run. */
int work_rows(int32_t first, int32_t bytes, uint8_t *to) {
    int32_t done = 0;
    ask_for(first, first + bytes);
    put_line("m-ready");
    while (done < bytes) {
        char *rest = row_line, *words;
        const char *x = text_command(row_line, (int32_t)sizeof row_line) < 0 ? "" : text_word(&rest);
        if (x == (const char *)0) {
            put_line("m-ready");
            continue;
        }
        if (!text_is(x, "x") || opened(rest, &words) != 0) {
            put_line("e-[crc]");
            put_line("m-ready");
            continue;
        }
        const char *name = text_word(&words);
        if (name == (const char *)0 || !text_is(name, "row")) {
            return WORK_NO_ROWS;
        }
        const int32_t at = text_number(text_word(&words));
        const char *digits = text_word(&words);
        const int32_t place = at - first;
        if (place >= 0 && place <= done && digits != (const char *)0) {
            const int32_t count = text_bytes(digits, to + place, bytes - place);
            done = count > 0 && place + count > done ? place + count : done;
        }
        ask_for(first + done, first + bytes);
        if (done < bytes) {
            put_line("m-ready");
        }
    }
    return BITSHIP_OK;
}
#endif

static int32_t opened(char *line, char **words) {
    char *last = (char *)0;
    int32_t length = 0;
    uint32_t crc = 0;
    for (; line[length] != 0; length++) {
        last = line[length] == ' ' ? line + length : last;
    }
    if (last == (char *)0 || line + length - last - 1 != DIGITS) {
        return -1;
    }
    for (int i = 0; i < DIGITS; i += 2) {
        const int byte = text_byte(last + 1 + i);
        if (byte < 0) {
            return -1;
        }
        crc = crc << 8 | (uint32_t)byte;
    }
    if (crc != crc32(0, line, (int32_t)(last - line))) {
        return -1;
    }
    *last = 0;
    *words = line;
    sequence = text_word(words);
    lines = 0;
    return sequence == (const char *)0 ? -1 : 0;
}

static void dispatch(const char *name, char *rest) {
    if (text_is(name, "info")) {
        info();
    } else if (text_is(name, "run")) {
        run(rest);
    } else if (text_is(name, "out")) {
        out(rest);
    } else if (text_is(name, "profile")) {
        profile(rest);
    } else if (text_is(name, "prefix")) {
        stop_behind(rest);
    } else if (text_is(name, "look")) {
        look(rest);
    } else if (text_is(name, "burst")) {
        burst(rest);
#if !MODEL_STREAMED
    } else if (text_is(name, "load")) {
        load(rest);
#endif
#if SERIAL_VECTORS
    } else if (text_is(name, "test")) {
        test();
#endif
    } else if (text_is(name, "restart")) {
        begin("end");
        finish();
        put_line("m-ready");
        port_uart_flush();
        port_restart();
    } else {
        refuse("there is no such command");
    }
}

void extension(char *line) {
    char *rest;
    if (opened(line, &rest) != 0) {
        put_line("e-[crc]");
        return;
    }
    const char *name = text_word(&rest);
    dispatch(name == (const char *)0 ? "" : name, rest);
}
