/* What an application needs of a board. Each file behind this header is one driver; README.md says which file
 * is picked for what, and the macros it is compiled with. Drivers have no heap, no recursion and no variable
 * frames: the image's stack is bounded from their calls. */
#ifndef BITSHIP_PORT_H
#define BITSHIP_PORT_H

#include <stdint.h>

/* Any application. */

#define PORT_EXIT_OK 0
#define PORT_EXIT_USAGE 2 /* no command line, or a file cannot be opened */
#define PORT_EXIT_FAULT 3 /* a fault exception */
#define PORT_EXIT_INPUT 4 /* the inputs file is short or garbled */

/* The program; returns its exit code. */
int port_main(void);

/* From the reset, with a stack: memory set up, then port_board_start, port_main and port_exit. */
void port_start(void) __attribute__((noreturn));

/* Only with a targets/<id>/port.c (then BITSHIP_BOARD is defined): the clocks that target.toml states, power
 * to the peripherals, the pins of the serial port. Called once, with .data and .bss set up, before any other
 * driver. */
void port_board_start(void);

/* Leave: FILES ends the emulation with the code, SERIAL restarts the board. Fault handlers end here. */
void port_exit(int code) __attribute__((noreturn));

/* A free-running up-counter of BITSHIP_COUNTER_HZ; port_ticks_start readies it, and may set it to 0: SERIAL
 * calls it before every measurement. 64 bits: a driver of a narrower one extends it, and the application
 * reads it at least once in every inference and while it waits. Without a counter on the board it reads 0. */
void port_ticks_start(void);
uint64_t port_ticks(void);

/* Fill the unused stack with a pattern; later, the most bytes that were in use at once since the reset. */
void port_stack_paint(void);
int32_t port_stack_bytes(void);

/* FILES: files on the host, by semihosting. */

/* One semihosting request; `block` holds its arguments as words. */
int32_t port_request(uint32_t operation, uint32_t *block);

/* Words of the command line into `line`, zero terminated; 0, or -1 when there is none or it is longer. */
int port_command_line(char *line, int32_t bytes);

/* Open a file for reading, or for writing anew; a handle, or -1. */
int32_t port_open(const char *name, int writing);
/* 0 when all bytes were transferred, else -1. */
int port_read(int32_t handle, void *data, int32_t bytes);
int port_write(int32_t handle, const void *data, int32_t bytes);
void port_close(int32_t handle);

/* SERIAL: bytes, 8N1, polled. The host sends nothing between the end of a command and the m-ready that
 * follows it, so nothing has to be received while the application computes. Between two calls of
 * port_uart_get the application takes far less than the time of a byte at 921600 Bd. */

void port_uart_start(uint32_t baud);
/* The next byte, 0 to 255, or -1 when none is there. Errors of the line are cleared, what came with them is
 * dropped. */
int port_uart_get(void);
/* Send one byte; waits for room. */
void port_uart_put(uint8_t byte);
/* Wait until the last bit has left. */
void port_uart_flush(void);

/* SERIAL: the marker line, high when idle, low for a moment at both edges of a measured window. */
void port_marker_start(void);
void port_marker(int level);

/* SERIAL: restart the board as after a reset. */
void port_restart(void) __attribute__((noreturn));

#endif
