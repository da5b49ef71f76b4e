/* pad: rows of bytes, 16 at a time. */
#include "mve.h"

int bitship_mve_pad(const struct bitship_mve_pad *p, const int8_t *x, int8_t *out) {
    const int32_t width = p->left + p->bytes + p->right;
    for (int32_t b = 0; b < p->batch; b++) {
        bitship_mve_fill(out, p->value, p->top * width + p->left);
        out += p->top * width + p->left;
        for (int32_t i = 1; i < p->rows; i++, x += p->bytes, out += width) {
            bitship_mve_copy(out, x, p->bytes);
            bitship_mve_fill(out + p->bytes, p->value, p->right + p->left);
        }
        bitship_mve_copy(out, x, p->bytes);
        x += p->bytes;
        out += p->bytes;
        bitship_mve_fill(out, p->value, p->right + p->bottom * width);
        out += p->right + p->bottom * width;
    }
    return BITSHIP_OK;
}
