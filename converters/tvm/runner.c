/* Runs a model on files: runner [-r REPEATS] [-t THREADS] IN... OUT...
 *
 * One file per graph input, then one per output, raw little-endian tensors. A file may hold several samples
 * one after the other; all inputs must hold as many. Prints one line per output, "output I CRC32 BYTES", over
 * the whole file, and with -r one line per timed run of the first sample, "run_ns N". Exit code 0, or 2 with
 * one line on stderr.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern const uint32_t bitship_inputs, bitship_input_bytes[], bitship_outputs, bitship_output_bytes[];
int bitship_set_threads(int threads);
int bitship_run(const void *const *inputs, void *const *outputs);

static void fail(const char *where, const char *what) {
    fprintf(stderr, "runner: %s: %s\n", where, what);
    exit(2);
}

static uint32_t crc32(const uint8_t *data, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) {
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        fail(path, "cannot be read");
    }
    long end = ftell(file);
    rewind(file);
    uint8_t *data = end < 0 ? NULL : malloc((size_t)end + 1);
    if (!data || fread(data, 1, (size_t)end, file) != (size_t)end) {
        fail(path, "cannot be read");
    }
    fclose(file);
    *size = (size_t)end;
    return data;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv) {
    int first = 1;
    long repeats = 0;
    for (; argc > first + 1 && argv[first][0] == '-'; first += 2) {
        const long value = strtol(argv[first + 1], NULL, 10);
        if (!strcmp(argv[first], "-r")) {
            repeats = value;
        } else if ((strcmp(argv[first], "-t") && strcmp(argv[first], "--threads")) || value < 1 ||
                   value > 64 || bitship_set_threads((int)value) != value) {
            fail(argv[first], "no such option, or not as many threads as this system makes");
        }
    }
    const uint32_t ins = bitship_inputs, outs = bitship_outputs;
    if ((uint32_t)(argc - first) != ins + outs) {
        fprintf(stderr, "runner: %d files given, %u inputs and %u outputs needed\n", argc - first, ins, outs);
        return 2;
    }
    uint8_t **in = calloc(ins + 1, sizeof *in), **out = calloc(outs + 1, sizeof *out);
    const void **from = calloc(ins + 1, sizeof *from);
    void **to = calloc(outs + 1, sizeof *to);
    size_t samples = ins ? 0 : 1;
    for (uint32_t i = 0; i < ins; i++) {
        size_t size;
        in[i] = read_file(argv[first + (int)i], &size);
        size_t count = size / bitship_input_bytes[i];
        if (size == 0 || size % bitship_input_bytes[i] || (i && count != samples)) {
            fail(argv[first + (int)i],
                 "its size is no multiple of the input's, or not as many samples as the others");
        }
        samples = count;
    }
    for (uint32_t i = 0; i < outs; i++) {
        out[i] = malloc(samples * bitship_output_bytes[i]);
        if (!out[i]) {
            fail("outputs", "out of memory");
        }
    }
    for (size_t s = 0; s < samples + (size_t)repeats; s++) {
        size_t k = s < samples ? s : 0;
        for (uint32_t i = 0; i < ins; i++) {
            from[i] = in[i] + k * bitship_input_bytes[i];
        }
        for (uint32_t i = 0; i < outs; i++) {
            to[i] = out[i] + k * bitship_output_bytes[i];
        }
        int64_t start = now_ns();
        bitship_run(from, to);
        if (s >= samples) {
            printf("run_ns %lld\n", (long long)(now_ns() - start));
        }
    }
    for (uint32_t i = 0; i < outs; i++) {
        size_t size = samples * bitship_output_bytes[i];
        FILE *file = fopen(argv[first + (int)(ins + i)], "wb");
        if (!file || fwrite(out[i], 1, size, file) != size || fclose(file)) {
            fail(argv[first + (int)(ins + i)], "cannot be written");
        }
        printf("output %u %08x %zu\n", i, crc32(out[i], size), size);
    }
    return 0;
}
