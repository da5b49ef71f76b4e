/* What the device side of a run needs of a board: files on the host, a counter, the stack, an exit code. */
#ifndef BITSHIP_PORT_H
#define BITSHIP_PORT_H

#include <stdint.h>

#define PORT_EXIT_OK 0
#define PORT_EXIT_USAGE 2 /* no command line, or a file cannot be opened */
#define PORT_EXIT_FAULT 3 /* a fault exception */
#define PORT_EXIT_INPUT 4 /* the inputs file is short or garbled */

/* The program; returns its exit code. */
int port_main(void);

/* From the reset, with a stack: memory set up, then port_main and port_exit. */
void port_start(void) __attribute__((noreturn));

/* One semihosting request; `block` holds its arguments as words. */
int32_t port_request(uint32_t operation, uint32_t *block);

void port_exit(int code) __attribute__((noreturn));

/* Words of the command line into `line`, zero terminated; 0, or -1 when there is none or it is longer. */
int port_command_line(char *line, int32_t bytes);

/* Open a file for reading, or for writing anew; a handle, or -1. */
int32_t port_open(const char *name, int writing);
/* 0 when all bytes were transferred, else -1. */
int port_read(int32_t handle, void *data, int32_t bytes);
int port_write(int32_t handle, const void *data, int32_t bytes);
void port_close(int32_t handle);

/* A free-running up-counter; port_ticks_start readies it. Without one on the board it reads 0. */
void port_ticks_start(void);
uint64_t port_ticks(void);

/* Fill the unused stack with a pattern; later, the most bytes that were in use at once since the reset. */
void port_stack_paint(void);
int32_t port_stack_bytes(void);

#endif
