/* A split device on a serial port: an image comes in a frame; the exit's answer, or the features, go out in
 * one. docs/split.md has the frames.
 *
 * Kind 5 is an image: its payload is the model's input, its rung the one to code with, or 15: the exit is to
 * answer whatever it thinks of it (there is no link). The answer has the image's sequence number.
 */
#include "../app/port.h"
#include "../model.h"
#include "config.h"
#include "frame.h"
#include "rans.h"

#include <string.h>

#define SYMBOLS (SPLIT_CHANNELS * SPLIT_PIXELS)
#define STREAM (3 * SYMBOLS + 7)
#define LOCAL_ONLY 15
#define LOCAL_EXIT 2
#define ANSWER_BYTES 6
#define REFUSAL_WRONG_MODEL 1
#define REFUSAL_UNKNOWN_RUNG 4
#define REFUSAL_TOO_LARGE 7
#define REFUSAL_WRONG_KIND 8
#define REFUSAL_INTERNAL 13

static uint8_t received[MODEL_INPUT_0_BYTES + BITSHIP_FRAME_EXTRA];
static uint8_t sent[STREAM + BITSHIP_FRAME_EXTRA];
static uint8_t stream[STREAM];
static int8_t symbols[SYMBOLS];

static void send(struct bitship_frame *frame, const uint8_t *payload, int32_t bytes) {
    memcpy(frame->model, split_model, sizeof frame->model);
    frame->payload = payload;
    frame->payload_bytes = (uint16_t)bytes;
    const int32_t length = bitship_frame_pack(frame, sent, (int32_t)sizeof sent);
    for (int32_t i = 0; i < length; i++) {
        port_uart_put(sent[i]);
    }
}

static void refuse(struct bitship_frame *frame, uint8_t code) {
    frame->kind = BITSHIP_FRAME_REFUSAL;
    frame->codec = 0;
    send(frame, &code, 1);
}

/* The class of the exit's largest code, and how sure it is, of 65535. */
static int32_t exit_class(const int8_t *logits, uint16_t *confidence) {
    int32_t best = 0, second = -1;
    for (int32_t i = 1; i < SPLIT_CLASSES; i++) {
        if (logits[i] > logits[best]) {
            second = best;
            best = i;
        } else if (second < 0 || logits[i] > logits[second]) {
            second = i;
        }
    }
    *confidence = split_confidence[second < 0 ? 255 : logits[best] - logits[second]];
    return best;
}

static void answer(struct bitship_frame *frame, int32_t class, uint16_t confidence) {
    const uint8_t payload[ANSWER_BYTES] = {(uint8_t)class,      (uint8_t)(class >> 8),
                                           (uint8_t)confidence, (uint8_t)(confidence >> 8),
                                           LOCAL_EXIT,          0};
    frame->kind = BITSHIP_FRAME_ANSWER;
    frame->codec = 0;
    send(frame, payload, ANSWER_BYTES);
}

static void features(struct bitship_frame *frame) {
    const struct split_rung *rung = &split_rungs[frame->rung];
    const struct bitship_rans_tables tables = {rung->offset, rung->cumulative, SPLIT_CHANNELS};
    const int8_t *codes = (const int8_t *)model_output(0);
    if (bitship_rans_symbols(codes, SPLIT_PIXELS, SPLIT_CHANNELS, SPLIT_ZERO_POINT, rung->shift, symbols) <
        0) {
        refuse(frame, REFUSAL_INTERNAL);
        return;
    }
    const int32_t bytes = bitship_rans_encode(&tables, symbols, SPLIT_PIXELS, stream, STREAM);
    const int coded = bytes > 0 && bytes < SYMBOLS;
    frame->kind = BITSHIP_FRAME_FEATURES;
    frame->codec = coded ? BITSHIP_FRAME_RANS : BITSHIP_FRAME_RAW;
    memcpy(frame->table, rung->hash, sizeof frame->table);
    send(frame, coded ? stream + STREAM - bytes : (const uint8_t *)symbols, coded ? bytes : SYMBOLS);
}

static void image(struct bitship_frame *frame) {
    memset(frame->table, 0, sizeof frame->table);
    if (frame->kind != BITSHIP_FRAME_IMAGE) {
        refuse(frame, REFUSAL_WRONG_KIND);
    } else if (memcmp(frame->model, split_model, sizeof frame->model) != 0) {
        refuse(frame, REFUSAL_WRONG_MODEL);
    } else if (frame->rung >= SPLIT_RUNGS && frame->rung != LOCAL_ONLY) {
        refuse(frame, REFUSAL_UNKNOWN_RUNG);
    } else if (frame->payload_bytes != MODEL_INPUT_0_BYTES) {
        refuse(frame, REFUSAL_TOO_LARGE);
    } else {
        memcpy(model_input(0), frame->payload, MODEL_INPUT_0_BYTES);
        if (model_run() != 0) {
            refuse(frame, REFUSAL_INTERNAL);
            return;
        }
        uint16_t confidence;
        const int32_t class = exit_class((const int8_t *)model_output(1), &confidence);
        if (confidence >= SPLIT_THRESHOLD || frame->rung == LOCAL_ONLY) {
            answer(frame, class, confidence);
        } else {
            features(frame);
        }
    }
}

int port_main(void) {
    static struct bitship_frame_reader reader = {received, (int32_t)sizeof received, 0, 0, 0};
    struct bitship_frame frame = {BITSHIP_FRAME_HELLO, 0, 0, 0, 0, {0}, {0}, (const uint8_t *)0};
    port_ticks_start();
    port_uart_start(BITSHIP_UART_BAUD);
    send(&frame, (const uint8_t *)MODEL_DIGEST, 64);
    for (;;) {
        const int next = port_uart_get();
        if (next >= 0) {
            const uint8_t byte = (uint8_t)next;
            (void)bitship_frame_feed(&reader, &byte, 1);
            while (bitship_frame_next(&reader, &frame) == 1) {
                image(&frame);
            }
        }
    }
}
