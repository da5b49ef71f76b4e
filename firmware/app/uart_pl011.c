/* PL011, of the RP2040 and RP2350: 8N1, FIFOs on. The target's port.c gives it clock and pins. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define DR REGISTER(0x000)
#define RSR REGISTER(0x004)
#define FR REGISTER(0x018)
#define IBRD REGISTER(0x024)
#define FBRD REGISTER(0x028)
#define LCR_H REGISTER(0x02C)
#define CR REGISTER(0x030)
#define IMSC REGISTER(0x038)

void port_uart_start(uint32_t baud) {
    const uint32_t divisor = (8 * (BITSHIP_UART_HZ / baud) + 1) / 2; /* in 64ths of 16 clocks */
    CR = 0;
    IMSC = 0;
    IBRD = divisor >> 6;
    FBRD = divisor & 63u;
    LCR_H = 3u << 5 | 1u << 4; /* 8N1, FIFOs; takes the divisor over */
    RSR = 0;
    CR = 1u | 1u << 8 | 1u << 9;
}

int port_uart_get(void) {
    if ((FR & 1u << 4) != 0) {
        return -1;
    }
    const uint32_t data = DR;
    if ((data & 0xF00u) != 0) { /* framing, parity, break, overrun */
        RSR = 0;
        return -1;
    }
    return (int)(data & 0xFFu);
}

void port_uart_put(uint8_t byte) {
    while ((FR & 1u << 5) != 0) {
    }
    DR = byte;
}

void port_uart_flush(void) {
    while ((FR & 1u << 3) != 0) {
    }
}
