#include "text.h"

#include "crc.h"
#include "port.h"

static uint32_t sent;

int32_t text_command(char *line, int32_t size) {
    int32_t length = 0;
    for (;;) {
        const int byte = port_uart_get();
        if (byte < 0) {
            (void)port_ticks(); /* a narrow counter's wraps are noticed when it is read */
        } else if (byte == '%') {
            line[length < size ? length : size - 1] = 0;
            return length < size ? length : -1;
        } else if (byte >= ' ') {
            if (length < size - 1) {
                line[length++] = (char)byte;
            } else {
                length = size; /* too long, until its end comes */
            }
        }
    }
}

char *text_word(char **line) {
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

int text_is(const char *word, const char *wanted) {
    while (*word != 0 && *word == *wanted) {
        word++;
        wanted++;
    }
    return *word == *wanted;
}

int32_t text_number(const char *word) {
    int32_t value = 0;
    if (word == (const char *)0 || *word == 0) {
        return -1;
    }
    for (; *word != 0; word++) {
        const int units = *word - '0';
        if (units < 0 || units > 9 || value > (INT32_MAX - units) / 10) {
            return -1;
        }
        value = value * 10 + units;
    }
    return value;
}

static int digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int text_byte(const char *digits) {
    const int high = digit(digits[0]);
    const int low = high < 0 ? -1 : digit(digits[1]);
    return low < 0 ? -1 : high * 16 + low;
}

int32_t text_bytes(const char *digits, uint8_t *to, int32_t most) {
    int32_t count = 0;
    for (; *digits != 0; digits += 2) {
        const int byte = text_byte(digits);
        if (byte < 0 || count == most) {
            return -1;
        }
        to[count++] = (uint8_t)byte;
    }
    return count;
}

static void put(char c) {
    sent = crc32(sent, &c, 1);
    port_uart_put((uint8_t)c);
}

void put_text(const char *text) {
    while (*text != 0) {
        put(*text++);
    }
}

void put_line(const char *text) {
    put_text(text);
    put_text("\r\n");
}

void put_number(uint64_t value) {
    char digits[20];
    int count = 0;
    do {
        uint32_t rest;
        value = text_divide(value, 10, &rest);
        digits[count++] = (char)('0' + rest);
    } while (value != 0);
    while (count > 0) {
        put(digits[--count]);
    }
}

void put_hex(uint32_t value, int digits) {
    while (digits > 0) {
        digits--;
        put("0123456789ABCDEF"[(value >> (4 * digits)) & 15u]);
    }
}

void put_bytes(const void *data, int32_t bytes) {
    const uint8_t *p = (const uint8_t *)data;
    for (int32_t i = 0; i < bytes; i++) {
        put_hex(p[i], 2);
    }
}

void put_word(const char *word) {
    for (int i = 0; i < 32 && *word != 0; i++, word++) {
        put(*word > ' ' && *word <= '~' && *word != '[' && *word != ']' ? *word : '?');
    }
}

void text_crc_start(void) { sent = 0; }

uint32_t text_crc(void) { return sent; }

uint64_t text_divide(uint64_t value, uint32_t divisor, uint32_t *rest) {
    uint64_t quotient = 0, left = 0;
    for (int bit = 63; bit >= 0; bit--) {
        left = left << 1 | (value >> bit & 1u);
        quotient <<= 1;
        if (left >= divisor) {
            left -= divisor;
            quotient |= 1u;
        }
    }
    *rest = (uint32_t)left;
    return quotient;
}
