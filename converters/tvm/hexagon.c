/* What a model for Hexagon needs where there is no C library: memory functions, one thread in place of a
 * team, and a runner on files by Linux system calls (trap0), for qemu-hexagon.
 *
 * The runner takes the arguments of ../runner.c and prints its "output I CRC32 BYTES" lines; it times
 * nothing, and knows the options --arena and --threads alone, which change nothing here.
 */
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_FILES 4096

void bitship_program(int part, int parts);
void bitship_barrier(int parts);
void bitship_team_run(void);
EXPORT int bitship_set_threads(int threads);

void *memcpy(void *to, const void *from, size_t n) {
    uint8_t *t = to;
    for (const uint8_t *f = from; n > 0; n--) {
        *t++ = *f++;
    }
    return to;
}

void *memset(void *to, int value, size_t n) {
    for (uint8_t *t = to; n > 0; n--) {
        *t++ = (uint8_t)value;
    }
    return to;
}

/* Hexagon does not divide: what compilers call instead. */
uint64_t __hexagon_udivdi3(uint64_t a, uint64_t b);
uint64_t __hexagon_umoddi3(uint64_t a, uint64_t b);
int64_t __hexagon_divdi3(int64_t a, int64_t b);
int64_t __hexagon_moddi3(int64_t a, int64_t b);
uint32_t __hexagon_udivsi3(uint32_t a, uint32_t b);
uint32_t __hexagon_umodsi3(uint32_t a, uint32_t b);
int32_t __hexagon_divsi3(int32_t a, int32_t b);
int32_t __hexagon_modsi3(int32_t a, int32_t b);

uint64_t __hexagon_udivdi3(uint64_t a, uint64_t b) {
    uint64_t quotient = 0, rest = 0;
    for (int i = 63; i >= 0; i--) {
        const uint64_t carry = rest >> 63;
        rest = rest << 1 | (a >> i & 1);
        if (carry || rest >= b) {
            rest -= b;
            quotient |= (uint64_t)1 << i;
        }
    }
    return quotient;
}

uint64_t __hexagon_umoddi3(uint64_t a, uint64_t b) { return a - __hexagon_udivdi3(a, b) * b; }

int64_t __hexagon_divdi3(int64_t a, int64_t b) {
    const uint64_t x = a < 0 ? 0 - (uint64_t)a : (uint64_t)a, y = b < 0 ? 0 - (uint64_t)b : (uint64_t)b;
    const uint64_t quotient = __hexagon_udivdi3(x, y);
    return (int64_t)((a < 0) != (b < 0) ? 0 - quotient : quotient);
}

int64_t __hexagon_moddi3(int64_t a, int64_t b) { return a - __hexagon_divdi3(a, b) * b; }
uint32_t __hexagon_udivsi3(uint32_t a, uint32_t b) { return (uint32_t)__hexagon_udivdi3(a, b); }
uint32_t __hexagon_umodsi3(uint32_t a, uint32_t b) { return (uint32_t)__hexagon_umoddi3(a, b); }
int32_t __hexagon_divsi3(int32_t a, int32_t b) { return (int32_t)__hexagon_divdi3(a, b); }
int32_t __hexagon_modsi3(int32_t a, int32_t b) { return (int32_t)__hexagon_moddi3(a, b); }

double sqrt(double x);

/* Rounded to nearest, for normal numbers above zero (0 for others): one binary digit of the root at a time. A
 * root of 54 bits is never half way between two of 53, for its square would need more bits than x has. */
double sqrt(double x) {
    uint64_t bits, root = 0, rest = 0, digits;
    int exponent;
    memcpy(&bits, &x, sizeof bits);
    exponent = (int)(bits >> 52 & 0x7FF) - 1023;
    if (bits >> 63 || exponent == -1023 || exponent == 1024) {
        return 0;
    }
    digits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52;
    digits <<= 10 + (exponent & 1);
    for (int i = 0; i < 54; i++) {
        const uint64_t next = root << 2 | 1;
        rest = rest << 2 | digits >> 62;
        digits <<= 2;
        root <<= 1;
        if (rest >= next) {
            rest -= next;
            root |= 1;
        }
    }
    root = (root + 1) >> 1;
    bits = (uint64_t)((exponent >> 1) + 1023) << 52;
    bits += root - ((uint64_t)1 << 52);
    memcpy(&x, &bits, sizeof x);
    return x;
}

void bitship_barrier(int parts) { (void)parts; }
void bitship_team_run(void) { bitship_program(0, 1); }
int bitship_set_threads(int threads) { return threads == 1 ? 0 : -1; }

#ifdef BITSHIP_RUNNER

extern const uint32_t bitship_inputs, bitship_input_bytes[], bitship_outputs, bitship_output_bytes[];
int bitship_run(const void *const *inputs, void *const *outputs);

enum { OPENAT = 56, CLOSE = 57, READ = 63, WRITE = 64, EXIT = 93, MMAP = 222 };
enum { HERE = -100, CREATE = 01 | 0100 | 01000, SHARED_WITH_NOBODY = 0x22 };

static long call(long number, long a, long b, long c, long d) {
    register long r6 __asm__("r6") = number, r0 __asm__("r0") = a, r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c, r3 __asm__("r3") = d, r4 __asm__("r4") = -1, r5 __asm__("r5") = 0;
    __asm__ volatile("trap0(#1)"
                     : "+r"(r0)
                     : "r"(r6), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
                     : "memory");
    return r0;
}

static size_t length(const char *text) {
    size_t n = 0;
    while (text[n] != 0) {
        n++;
    }
    return n;
}

static void say(int to, const char *text) { (void)call(WRITE, to, (long)text, (long)length(text), 0); }

static void fail(const char *where, const char *what) {
    say(2, "runner: ");
    say(2, where);
    say(2, what);
    (void)call(EXIT, 2, 0, 0, 0);
}

static void say_number(uint32_t value, uint32_t base, int digits) {
    char text[12];
    int at = 11;
    text[at] = 0;
    for (; value > 0 || digits > 0 || at == 11; value /= base, digits--) {
        text[--at] = "0123456789abcdef"[value % base];
    }
    say(1, text + at);
}

static uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) {
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
        }
    }
    return crc;
}

static void *room(size_t bytes) {
    const long at = call(MMAP, 0, (long)((bytes + 4095) / 4096 * 4096), 3, SHARED_WITH_NOBODY);
    if (at < 0 && at > -4096) {
        fail("memory", ": there is not enough\n");
    }
    return (void *)at;
}

/* Bytes read: `bytes`, or 0 at the end of the file. */
static size_t take(int file, uint8_t *to, size_t bytes, const char *name) {
    size_t done = 0;
    for (long n = 1; done < bytes && n > 0; done += n > 0 ? (size_t)n : 0) {
        n = call(READ, file, (long)(to + done), (long)(bytes - done), 0);
    }
    if (done != 0 && done != bytes) {
        fail(name, ": its size is no multiple of a sample's\n");
    }
    return done;
}

static int opened(const char *name, long flags) {
    const long file = call(OPENAT, HERE, (long)name, flags, 0644);
    if (file < 0) {
        fail(name, ": cannot be opened\n");
    }
    return (int)file;
}

__attribute__((used)) static void run(const uintptr_t *stack) {
    char *const *words = (char *const *)(stack + 1);
    const int count = (int)stack[0], n = (int)(bitship_inputs + bitship_outputs);
    static int files[MOST_FILES];
    static void *data[MOST_FILES];
    static uint32_t crc[MOST_FILES], bytes[MOST_FILES];
    int first = 1, more = 1;
    while (first + 1 < count && words[first][0] == '-') {
        first += 2;
    }
    if (count - first != n || n > MOST_FILES) {
        fail("arguments", ": one file per input, then one per output\n");
    }
    for (int i = 0; i < n; i++) {
        const int in = i < (int)bitship_inputs;
        data[i] = room(in ? bitship_input_bytes[i] : bitship_output_bytes[i - (int)bitship_inputs]);
        files[i] = opened(words[first + i], in ? 0 : CREATE);
        crc[i] = 0xFFFFFFFFu;
        bytes[i] = 0;
    }
    while (more) {
        for (int i = 0; i < (int)bitship_inputs && more; i++) {
            more = take(files[i], data[i], bitship_input_bytes[i], words[first + i]) != 0;
        }
        if (more && bitship_run((const void *const *)data, data + bitship_inputs) != 0) {
            fail("model", ": did not run\n");
        }
        for (int i = (int)bitship_inputs; more && i < n; i++) {
            const uint32_t size = bitship_output_bytes[i - (int)bitship_inputs];
            if (call(WRITE, files[i], (long)data[i], (long)size, 0) != (long)size) {
                fail(words[first + i], ": cannot be written\n");
            }
            crc[i] = crc32(crc[i], data[i], size);
            bytes[i] += size;
        }
        more = more && bitship_inputs > 0;
    }
    for (int i = (int)bitship_inputs; i < n; i++) {
        say(1, "output ");
        say_number((uint32_t)i - bitship_inputs, 10, 1);
        say(1, " ");
        say_number(~crc[i], 16, 8);
        say(1, " ");
        say_number(bytes[i], 10, 1);
        say(1, "\n");
    }
    (void)call(EXIT, 0, 0, 0, 0);
}

/* The stack of a new process holds the number of words, then where they are. Vectors on the stack are 128
 * bytes. */
__asm__(".globl _start\n_start:\n\tr0 = r29\n\tr29 = and(r29, #-128)\n\tcall run\n");

#endif
