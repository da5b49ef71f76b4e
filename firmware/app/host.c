/* The port of a process: the serial port is its standard input and output, a restart begins the program anew.
 * Not a board's: for tests, and for trying the protocol without one. There is no stack to paint. */
#define _POSIX_C_SOURCE 200809L
#include "port.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint8_t received[4096], sent[4096];
static int32_t at, end, waiting;

void port_uart_start(uint32_t baud) { (void)baud; }

void port_uart_flush(void) {
    for (int32_t from = 0; from < waiting;) {
        const ssize_t done = write(STDOUT_FILENO, sent + from, (size_t)(waiting - from));
        if (done <= 0) {
            exit(1);
        }
        from += (int32_t)done;
    }
    waiting = 0;
}

int port_uart_get(void) {
    if (at == end) {
        port_uart_flush();
        const ssize_t count = read(STDIN_FILENO, received, sizeof received);
        if (count <= 0) {
            exit(0);
        }
        at = 0;
        end = (int32_t)count;
    }
    return received[at++];
}

void port_uart_put(uint8_t byte) {
    if (waiting == (int32_t)sizeof sent) {
        port_uart_flush();
    }
    sent[waiting++] = byte;
}

void port_ticks_start(void) {}

uint64_t port_ticks(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void port_stack_paint(void) {}
int32_t port_stack_bytes(void) { return 0; }
void port_marker_start(void) {}

/* The marker's level shows on standard error. */
void port_marker(int level) {
    if (write(STDERR_FILENO, level ? "1" : "0", 1) != 1) {
        exit(1);
    }
}

void port_restart(void) {
    char *const words[] = {(char *)"board", (char *)0};
    port_uart_flush();
    (void)execv("/proc/self/exe", words);
    exit(1);
}

int main(void) { return port_main(); }
