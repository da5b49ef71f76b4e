/* A 16550 with byte registers one behind the other. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint8_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define DATA REGISTER(0)   /* divisor's low byte while LCR bit 7 is set */
#define ENABLE REGISTER(1) /* divisor's high byte while LCR bit 7 is set */
#define FIFO REGISTER(2)
#define LINE REGISTER(3)
#define STATE REGISTER(5)

void port_uart_start(uint32_t baud) {
    const uint32_t divisor = (BITSHIP_UART_HZ + 8 * baud) / (16 * baud);
    ENABLE = 0;
    LINE = 0x80;
    DATA = (uint8_t)divisor;
    ENABLE = (uint8_t)(divisor >> 8);
    LINE = 3; /* 8N1 */
    FIFO = 7; /* on, both emptied */
}

int port_uart_get(void) { return STATE & 1 ? DATA : -1; }

void port_uart_put(uint8_t byte) {
    while ((STATE & 0x20) == 0) {
    }
    DATA = byte;
}

void port_uart_flush(void) {
    while ((STATE & 0x40) == 0) {
    }
}
