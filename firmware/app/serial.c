/* The serial application: MLPerf Tiny's commands, and this project's; ../PROTOCOL.md has both. One command at
 * a time, each ended by '%' and answered by lines of which the last is m-ready. */
#include "arena.h"
#include "extensions.h"
#include "model.h"
#include "port.h"
#include "pulse.h"
#include "text.h"
#include "tiny.h"
#include "work.h"

static int32_t loaded, expected; /* bytes of db */

/* The first edge, or the last, of a measured window. */
static void stamp(uint64_t ticks) {
#if BITSHIP_ENERGY
    (void)ticks;
    pulse();
#else
    put_text("m-lap-us-");
    put_number(microseconds(ticks));
    put_line("");
#endif
}

static void infer(int32_t runs, int32_t warmup) {
    uint64_t taken = 0;
    int32_t error = 0;
    put_text("m-warmup-start-");
    put_number((uint64_t)warmup);
    put_line("");
    for (int32_t i = 0; i < warmup && error == 0; i++) {
        error = work_run(&taken);
    }
    put_line("m-warmup-done");
    put_text("m-infer-start-");
    put_number((uint64_t)runs);
    put_line("");
    port_uart_flush();
    const uint64_t start = work_ticks();
    stamp(start);
    port_uart_flush();
#if BITSHIP_ENERGY
    if (error == 0) {
        error = work_burst(runs, &taken);
    }
    stamp(0);
#else
    uint64_t total = 0;
    for (int32_t i = 0; i < runs && error == 0; i++) {
        error = work_run(&taken);
        total += taken;
    }
    stamp(start + total);
#endif
    put_line("m-infer-done");
    if (error != 0) {
        put_text("e-[Inference failed with error ");
        put_text(error < 0 ? "-" : "");
        put_number((uint64_t)(error < 0 ? -(int64_t)error : error));
        put_line("]");
        return;
    }
    tiny_results();
}

static void infer_command(char *rest) {
    const char *word = text_word(&rest);
    const int32_t runs = word ? text_number(word) : 1;
    word = text_word(&rest);
    const int32_t warmup = word ? text_number(word) : 10;
    if (MODEL_STREAMED) {
        put_line("e-[The image is streamed: use x run]");
    } else if (runs <= 0) {
        put_line("e-[Inference iterations must be >0]");
    } else if (warmup < 0) {
        put_line("e-[Inference warmup must be >=0]");
    } else if (loaded != SERIAL_DB_BYTES || !work_converted) {
        put_text("e-[Input has ");
        put_number((uint64_t)loaded);
        put_text(" bytes, expected ");
        put_number(SERIAL_DB_BYTES);
        put_line("]");
    } else {
        infer(runs, warmup);
    }
}

static void db_load(const char *word) {
    const int32_t bytes = text_number(word);
    loaded = expected = 0;
    if (word == (const char *)0) {
        put_line("e-[Command 'db load' requires the # of bytes]");
    } else if (bytes <= 0) {
        put_line("e-[Command 'db load' must be >0 bytes]");
    } else if (bytes > SERIAL_DB_BYTES) {
        put_text("e-[Supplied buffer size ");
        put_number((uint64_t)bytes);
        put_text(" exceeds maximum of ");
        put_number(SERIAL_DB_BYTES);
        put_line("]");
    } else {
        expected = bytes;
        put_text("m-[Expecting ");
        put_number((uint64_t)bytes);
        put_line(" bytes]");
    }
}

static void db_print(void) {
    for (int32_t i = 0; i < loaded; i++) {
        put_text(i % 8 == 0 ? "m-buffer-" : "-");
        put_hex(work_input[i], 2);
        if (i % 8 == 7 || i + 1 == loaded) {
            put_line("");
        }
    }
}

static void db_bytes(const char *digits) {
    for (; digits[0] != 0 && loaded < expected; digits += 2) {
        const int byte = text_byte(digits);
        if (byte < 0) {
            put_line(digits[1] == 0 ? "e-[Insufficent number of hex digits]" : "e-[Invalid hex digit]");
            return;
        }
        work_input[loaded++] = (uint8_t)byte;
        if (loaded == expected) {
            put_line("m-load-done");
        }
    }
}

static void db_command(char *rest) {
    const char *word = text_word(&rest);
    if (word == (const char *)0) {
        put_line("e-[Command 'db' requires a subcommand]");
    } else if (text_is(word, "load")) {
        db_load(text_word(&rest));
    } else if (text_is(word, "print")) {
        db_print();
    } else if (loaded >= expected) {
        put_line("e-[No bytes are expected: use db load]");
    } else {
        work_converted = 1;
        db_bytes(word);
    }
}

static void help(void) {
    put_line("bitship " SERIAL_VERSION);
    put_line("");
    put_line("help         : Print this information");
    put_line("name         : Print the name of the device");
    put_line("profile      : Print the benchmark's profile and model");
    put_line("timestamp    : Generate a timestamp");
    put_line("db load N    : Expect N bytes of input");
    put_line("db HH[HH]*   : Load them, as hexadecimal digits");
    put_line("db print     : Print them");
    put_line("infer N [W=10]: Run N inferences after W for warming up");
    put_line("results      : Print the last output");
    put_line("x SEQ ... CRC: bitship's own commands; see firmware/PROTOCOL.md");
}

static void command(char *line) {
    char *rest = line;
    const char *word = text_word(&rest);
    if (word == (const char *)0) {
        return; /* an empty command is how a host finds its feet */
    }
    if (text_is(word, "x")) {
        extension(rest);
    } else if (text_is(word, "name")) {
        put_line("m-name-dut-[bitship]");
    } else if (text_is(word, "profile")) {
        put_line("m-profile-[ULPMark for tinyML Firmware V0.0.1]");
        put_line("m-model-[" SERIAL_MODEL "]");
    } else if (text_is(word, "timestamp")) {
        port_uart_flush();
        stamp(work_ticks());
    } else if (text_is(word, "db")) {
        db_command(rest);
    } else if (text_is(word, "infer")) {
        infer_command(rest);
    } else if (text_is(word, "results")) {
        tiny_results();
    } else if (text_is(word, "help")) {
        help();
    } else {
        put_text("e-[Unknown command: ");
        put_word(word);
        put_line("]");
    }
}

int port_main(void) {
    static char line[SERIAL_LINE];
    port_stack_paint();
    arena_paint();
    port_ticks_start();
    port_marker_start();
    port_uart_start(BITSHIP_UART_BAUD);
    work_start();
    put_line(BITSHIP_ENERGY ? "m-timestamp-mode-energy" : "m-timestamp-mode-performance");
    stamp(work_ticks());
    put_line("m-init-done");
    put_line("m-ready");
    for (;;) {
        if (text_command(line, (int32_t)sizeof line) < 0) {
            put_line("e-[Command is too long]");
        } else {
            command(line);
        }
        put_line("m-ready");
    }
}
