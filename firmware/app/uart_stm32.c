/* USART of the STM32 families with separate data registers (F7, H7, L4): 8N1, no FIFO. The target's port.c
 * gives it clock and pins. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define CR1 REGISTER(0x00)
#define CR2 REGISTER(0x04)
#define CR3 REGISTER(0x08)
#define BRR REGISTER(0x0C)
#define ISR REGISTER(0x1C)
#define ICR REGISTER(0x20)
#define RDR REGISTER(0x24)
#define TDR REGISTER(0x28)

/* LPUART1 of the L4 counts in 256ths of a clock. */
#define LOW_POWER (BITSHIP_UART == 0x40008000u)

void port_uart_start(uint32_t baud) {
    const uint64_t clock = LOW_POWER ? (uint64_t)BITSHIP_UART_HZ << 8 : BITSHIP_UART_HZ;
    CR1 = 0;
    CR2 = 0;
    CR3 = 0;
    BRR = (uint32_t)((clock + baud / 2) / baud);
    ICR = 0xFu;
    CR1 = 1u | 1u << 2 | 1u << 3; /* on, receiver, transmitter */
}

int port_uart_get(void) {
    const uint32_t state = ISR;
    if ((state & 0xFu) != 0) { /* parity, framing, noise, overrun */
        ICR = 0xFu;
        (void)RDR;
        return -1;
    }
    return (state & 1u << 5) != 0 ? (int)(RDR & 0xFFu) : -1;
}

void port_uart_put(uint8_t byte) {
    while ((ISR & 1u << 7) == 0) {
    }
    TDR = byte;
}

void port_uart_flush(void) {
    while ((ISR & 1u << 6) == 0) {
    }
}
