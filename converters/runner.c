/* Runs a model on files: runner [OPTION N]... IN... OUT...
 *
 * One file per graph input, then one per output, raw little-endian tensors. A file may hold several samples
 * one after the other; all inputs must hold as many. Every sample is run once, then what the options ask for
 * is done with the first sample:
 *   -r N         N timed runs, a line "run_ns NANOSECONDS" each
 *   --burst N    N runs back to back, nothing written meanwhile: "burst_ns START END", monotonic clock
 *   --profile N  N runs in which every step is timed: "op_ns STEP NANOSECONDS" each
 *   --look N     runs up to step N, then writes what --memory, --offset and --bytes name in place of output 0
 *   --load 1     starts itself anew first: "load_ns NANOSECONDS", from there to its main()
 *   --arena 1    paints the tensor memory before the first run: "arena_bytes USED ALL"
 *   -t N         threads (--threads N)
 * "runner --clock" prints "clock_ns NOW" and ends.
 *
 * It always prints "first_ns NANOSECONDS" (the first run of all), "peak_kib N" (VmHWM, where /proc tells it)
 * and one line per output, "output I CRC32 BYTES", over the whole file. Times include copying tensors in and
 * out. Exit code 0, or 2 with one line on stderr.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern const uint32_t bitship_inputs, bitship_input_bytes[], bitship_outputs, bitship_output_bytes[];
int bitship_set_threads(int threads);
int bitship_run(const void *const *inputs, void *const *outputs);

/* Only some back ends have these: the tensor memory; a run that calls `done` after every step, and ends where
 * it gives anything but 0; the memories that tensors lie in. */
__attribute__((weak)) uint8_t *bitship_arena(size_t *bytes);
__attribute__((weak)) int bitship_run_steps(const void *const *inputs, int (*done)(int step, int whole));
__attribute__((weak)) const uint8_t *bitship_memory(int i, size_t *bytes);

#define PATTERN 0x5Au
#define MOST_STEPS 65536
#define STOPPED 1 /* beside the model's own results, which are 0 or negative */

struct options {
    long runs, burst, profile, load, arena, threads, look, memory, offset, bytes;
    long long since;
};

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

static void check(int error) {
    if (error) {
        fprintf(stderr, "runner: the model stopped with error %d\n", error);
        exit(2);
    }
}

static void print_peak(void) {
    char line[128];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "VmHWM:", 6)) {
            printf("peak_kib %ld\n", strtol(line + 6, NULL, 10));
        }
    }
    if (file) {
        fclose(file);
    }
}

static int64_t step_ns[MOST_STEPS], step_start;
static int steps, look_at;

static int step_done(int step, int whole) {
    const int64_t now = now_ns();
    (void)whole;
    if (step >= 0 && step < MOST_STEPS) { /* a step of strips or tiles comes many times */
        step_ns[step] += now - step_start;
        steps = step + 1 > steps ? step + 1 : steps;
    }
    step_start = now_ns();
    return 0;
}

static void profile(const void *const *from, long runs) {
    if (!bitship_run_steps) {
        fail("--profile", "this package's steps cannot be timed one by one");
    }
    int64_t overhead = INT64_MAX; /* what reading the clock takes, the least of many */
    for (int i = 0; i < 1000; i++) {
        const int64_t start = now_ns(), took = now_ns() - start;
        overhead = took < overhead ? took : overhead;
    }
    for (long i = 0; i < runs; i++) {
        memset(step_ns, 0, sizeof step_ns);
        step_start = now_ns();
        check(bitship_run_steps(from, step_done));
        for (int k = 0; k < steps; k++) {
            printf("op_ns %d %lld\n", k, (long long)(step_ns[k] > overhead ? step_ns[k] - overhead : 0));
        }
    }
}

static int stop_at(int step, int whole) { return step == look_at && whole ? STOPPED : 0; }

/* Puts a tensor as step `o->look` left it in place of the first output; returns its size. */
static size_t look(const struct options *o, const void *const *from, uint8_t **to) {
    size_t size = 0;
    const uint8_t *memory = bitship_memory ? bitship_memory((int)o->memory, &size) : NULL;
    look_at = (int)o->look;
    if (!memory || o->offset < 0 || o->bytes < 1 || (size_t)o->offset + (size_t)o->bytes > size) {
        fail("--look", "this package has no such memory");
    }
    if (bitship_run_steps(from, stop_at) != STOPPED) {
        fail("--look", "no such step, or its tensor is never whole");
    }
    free(*to);
    *to = malloc((size_t)o->bytes);
    if (!*to) {
        fail("--look", "out of memory");
    }
    memcpy(*to, memory + o->offset, (size_t)o->bytes);
    return (size_t)o->bytes;
}

static void repeat(const struct options *o, const void *const *from, void *const *to) {
    for (long i = 0; i < o->runs; i++) {
        const int64_t start = now_ns();
        check(bitship_run(from, to));
        printf("run_ns %lld\n", (long long)(now_ns() - start));
    }
    if (o->burst > 0) {
        fflush(stdout);
        const int64_t start = now_ns();
        for (long i = 0; i < o->burst; i++) {
            check(bitship_run(from, to));
        }
        printf("burst_ns %lld %lld\n", (long long)start, (long long)now_ns());
    }
    if (o->profile > 0) {
        profile(from, o->profile);
    }
}

static int read_options(struct options *o, int argc, char **argv) {
    const struct {
        const char *name;
        long *value;
    } known[] = {{"-r", &o->runs},           {"--burst", &o->burst}, {"--profile", &o->profile},
                 {"--load", &o->load},       {"--arena", &o->arena}, {"-t", &o->threads},
                 {"--threads", &o->threads}, {"--look", &o->look},   {"--memory", &o->memory},
                 {"--offset", &o->offset},   {"--bytes", &o->bytes}};
    int first = 1;
    for (; argc > first + 1 && argv[first][0] == '-'; first += 2) {
        size_t k = 0;
        if (!strcmp(argv[first], "--since")) {
            o->since = strtoll(argv[first + 1], NULL, 10);
            continue;
        }
        while (k < sizeof known / sizeof *known && strcmp(argv[first], known[k].name)) {
            k++;
        }
        if (k == sizeof known / sizeof *known) {
            fail(argv[first], "no such option, or not as many threads as this system makes");
        }
        *known[k].value = strtol(argv[first + 1], NULL, 10);
    }
    if (o->threads < 1 || o->threads > 64 ||
        (o->threads > 1 && bitship_set_threads((int)o->threads) != o->threads)) {
        fail("-t", "no such option, or not as many threads as this system makes");
    }
    return first;
}

/* Starts itself anew; the new one prints what that took. */
static void start_anew(int argc, char **argv) {
    char since[32];
    char **words = calloc((size_t)argc + 3, sizeof *words);
    int count = 0;
    for (int i = 0; words && i < argc; i++) {
        if (!strcmp(argv[i], "--load")) {
            words[count++] = (char *)"--since";
            words[count++] = since;
            i++;
        } else {
            words[count++] = argv[i];
        }
    }
    snprintf(since, sizeof since, "%lld", (long long)now_ns());
    if (words) {
        execv("/proc/self/exe", words);
    }
    fail("--load", "cannot start itself anew");
}

int main(int argc, char **argv) {
    const int64_t begun = now_ns();
    struct options o = {0, 0, 0, 0, 0, 1, -1, 0, 0, 0, 0};
    if (argc == 2 && !strcmp(argv[1], "--clock")) {
        printf("clock_ns %lld\n", (long long)now_ns());
        return 0;
    }
    const int first = read_options(&o, argc, argv);
    if (o.load > 0) {
        start_anew(argc, argv);
    }
    if (o.since > 0) {
        printf("load_ns %lld\n", (long long)(begun - o.since));
    }
    const uint32_t ins = bitship_inputs, outs = bitship_outputs;
    if ((uint32_t)(argc - first) != ins + outs) {
        fprintf(stderr, "runner: %d files given, %u inputs and %u outputs needed\n", argc - first, ins, outs);
        return 2;
    }
    uint8_t **in = calloc(ins + 1, sizeof *in), **out = calloc(outs + 1, sizeof *out);
    const void **from = calloc(ins + 1, sizeof *from);
    void **to = calloc(outs + 1, sizeof *to);
    size_t samples = ins ? 0 : 1, arena_bytes = 0;
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
        out[i] = malloc(samples * bitship_output_bytes[i] + 1);
        if (!out[i]) {
            fail("outputs", "out of memory");
        }
    }
    uint8_t *arena = o.arena > 0 && bitship_arena ? bitship_arena(&arena_bytes) : NULL;
    if (arena) {
        memset(arena, PATTERN, arena_bytes);
    }
    for (size_t s = samples; s-- > 0;) { /* the first sample last: its tensors stay for what follows */
        for (uint32_t i = 0; i < ins; i++) {
            from[i] = in[i] + s * bitship_input_bytes[i];
        }
        for (uint32_t i = 0; i < outs; i++) {
            to[i] = out[i] + s * bitship_output_bytes[i];
        }
        const int64_t start = now_ns();
        check(bitship_run(from, to));
        if (s + 1 == samples) {
            printf("first_ns %lld\n", (long long)(now_ns() - start));
        }
    }
    repeat(&o, from, to);
    const size_t seen = o.look >= 0 && outs ? look(&o, from, &out[0]) : 0;
    if (arena) {
        size_t used = arena_bytes;
        while (used > 0 && arena[used - 1] == PATTERN) {
            used--;
        }
        printf("arena_bytes %zu %zu\n", used, arena_bytes);
    }
    print_peak();
    for (uint32_t i = 0; i < outs; i++) {
        size_t size = i == 0 && seen ? seen : samples * bitship_output_bytes[i];
        FILE *file = fopen(argv[first + (int)(ins + i)], "wb");
        if (!file || fwrite(out[i], 1, size, file) != size || fclose(file)) {
            fail(argv[first + (int)(ins + i)], "cannot be written");
        }
        printf("output %u %08x %zu\n", i, crc32(out[i], size), size);
    }
    return 0;
}
