/* UART of the ESP32-C3, fed from the crystal: 8N1. Its pins are those the ROM has set up. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define FIFO REGISTER(0x00)
#define INT_RAW REGISTER(0x04)
#define INT_CLR REGISTER(0x10)
#define CLKDIV REGISTER(0x14)
#define STATUS REGISTER(0x1C)
#define CONF0 REGISTER(0x20)
#define FSM_STATUS REGISTER(0x6C)
#define CLK_CONF REGISTER(0x78)
#define ID REGISTER(0x80)

#define ERRORS (1u << 2 | 1u << 3 | 1u << 4) /* parity, framing, overflow */

void port_uart_start(uint32_t baud) {
    const uint32_t divisor = (16 * (BITSHIP_UART_HZ / 16) + baud / 32) / (baud / 16); /* in 16ths */
    CLK_CONF = 3u << 20 | 1u << 22 | 1u << 24 | 1u << 25; /* from the crystal, not divided, both ways on */
    CLKDIV = divisor >> 4 | (divisor & 15u) << 20;
    CONF0 = 3u << 2 | 1u << 4 | 1u << 28 | 3u << 17; /* 8 bits, 1 stop bit, memory's clock, FIFOs in reset */
    CONF0 = 3u << 2 | 1u << 4 | 1u << 28;
    ID |= 1u << 31; /* take the registers over */
    while ((ID & 1u << 31) != 0) {
    }
    INT_CLR = ERRORS;
}

int port_uart_get(void) {
    if ((STATUS & 0x3FFu) == 0) {
        return -1;
    }
    const int byte = (int)(FIFO & 0xFFu);
    if ((INT_RAW & ERRORS) != 0) {
        INT_CLR = ERRORS;
        return -1;
    }
    return byte;
}

void port_uart_put(uint8_t byte) {
    while ((STATUS >> 16 & 0x3FFu) >= 120u) {
    }
    FIFO = byte;
}

void port_uart_flush(void) {
    while ((STATUS >> 16 & 0x3FFu) != 0 || (FSM_STATUS >> 4 & 0xFu) != 0) {
    }
}
