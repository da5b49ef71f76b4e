#include "arena.h"

#include "model.h"

#define PATTERN 0xB175417Bu

void arena_paint(void) {
    for (int32_t i = 0; i + 4 <= MODEL_ARENA_BYTES; i += 4) {
        *(uint32_t *)(void *)(model_arena() + i) = PATTERN;
    }
}

int32_t arena_used(void) {
    int32_t used = MODEL_ARENA_BYTES & ~3;
    while (used > 0 && *(const uint32_t *)(const void *)(model_arena() + used - 4) == PATTERN) {
        used -= 4;
    }
    return used;
}
