/* The threads of one library: a team that runs bitship_program(part, parts) together, and the barrier between
 * steps.
 *
 * The caller of bitship_run is part 0. A thread that waits spins for a while, and only when there is a
 * processor for every part, then sleeps in the kernel until it is woken. Nothing is allocated here; threads
 * are made by bitship_set_threads, and ended by it, or when the library is unloaded. A process that was
 * forked has none of its parent's threads: it notices and makes its own on its first run.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_THREADS 64
/* Longer than a sleeper takes to wake, or threads would sleep in turn at every barrier. */
#define SPINS 10000
#define EXPORT __attribute__((visibility("default")))

void bitship_program(int part, int parts);
void bitship_barrier(int parts);
void bitship_team_run(void);
EXPORT int bitship_set_threads(int threads);

typedef struct {
    _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} signal_t;

static pthread_t members[MOST_THREADS];
static int parts = 1, spins = 0;
static pid_t owner;
static atomic_int stopping;
static _Alignas(64) _Atomic uint32_t arrived;
static _Alignas(64) signal_t phase;
static _Alignas(64) signal_t start;

static void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_change(signal_t *s, uint32_t old) {
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&s->value, memory_order_acquire) != old) {
            return;
        }
        pause_processor();
    }
    atomic_fetch_add(&s->sleepers, 1);
    while (atomic_load(&s->value) == old) {
        syscall(SYS_futex, &s->value, FUTEX_WAIT_PRIVATE, old, 0, 0, 0);
    }
    atomic_fetch_sub(&s->sleepers, 1);
}

static void change(signal_t *s) {
    atomic_fetch_add(&s->value, 1);
    if (atomic_load(&s->sleepers)) {
        syscall(SYS_futex, &s->value, FUTEX_WAKE_PRIVATE, MOST_THREADS, 0, 0, 0);
    }
}

/* All parts are here, and what they wrote is seen by all, before any goes on. */
void bitship_barrier(int count) {
    uint32_t old = atomic_load(&phase.value);
    if (atomic_fetch_add(&arrived, 1) + 1 == (uint32_t)count) {
        atomic_store(&arrived, 0);
        change(&phase);
    } else {
        wait_change(&phase, old);
    }
}

typedef struct {
    int part;
    uint32_t seen;
} seat_t;

static seat_t seats[MOST_THREADS];

static void *member(void *argument) {
    seat_t *seat = argument;
    for (;;) {
        wait_change(&start, seat->seen);
        seat->seen++;
        if (atomic_load(&stopping)) {
            return NULL;
        }
        bitship_program(seat->part, parts);
    }
}

static void dismiss(void) {
    if (parts > 1 && owner == getpid()) {
        atomic_store(&stopping, 1);
        change(&start);
        for (int i = 1; i < parts; i++) {
            pthread_join(members[i], NULL);
        }
        atomic_store(&stopping, 0);
    }
    parts = 1;
    atomic_store(&arrived, 0);
    atomic_store(&phase.sleepers, 0);
    atomic_store(&start.sleepers, 0);
}

/* Run on this many threads from now on, the caller's own among them; not while a run is under way.
 * Returns how many it is: less than asked when the system makes no more, at least 1. */
int bitship_set_threads(int threads) {
    dismiss();
    cpu_set_t allowed;
    int processors = sched_getaffinity(0, sizeof allowed, &allowed) ? 1 : CPU_COUNT(&allowed);
    int wanted = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads, made = 1;
    owner = getpid();
    spins = wanted <= processors ? SPINS : 0;
    for (; made < wanted; made++) {
        seats[made].part = made;
        seats[made].seen = atomic_load(&start.value);
        if (pthread_create(&members[made], NULL, member, &seats[made])) {
            break;
        }
    }
    parts = made; /* members read it after the first start, which orders it */
    return made;
}

/* Let every part run the program; returns when all have. */
void bitship_team_run(void) {
    if (parts > 1 && owner != getpid()) {
        bitship_set_threads(parts);
    }
    if (parts > 1) {
        change(&start);
    }
    bitship_program(0, parts);
}

__attribute__((destructor)) static void leave(void) { dismiss(); }
