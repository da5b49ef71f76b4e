/* UART of the nRF51; targets/<id>/port.c, or the emulator, says which pins. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define STARTRX REGISTER(0x000)
#define STARTTX REGISTER(0x008)
#define RXDRDY REGISTER(0x108)
#define TXDRDY REGISTER(0x11C)
#define ERRORSRC REGISTER(0x480)
#define ENABLE REGISTER(0x500)
#define RXD REGISTER(0x518)
#define TXD REGISTER(0x51C)
#define BAUDRATE REGISTER(0x524)

static int sending;

void port_uart_start(uint32_t baud) {
    /* baud * 2^32 / 16 MHz, rounded to a multiple of 2^12 as the table of the product specification has it */
    BAUDRATE = (uint32_t)((((uint64_t)baud << 32) / 16000000u + 0x800u) & ~(uint64_t)0xFFF);
    ENABLE = 4;
    STARTTX = 1;
    STARTRX = 1;
}

int port_uart_get(void) {
    if (RXDRDY == 0) {
        return -1;
    }
    RXDRDY = 0;
    const int byte = (int)(RXD & 0xFFu);
    const uint32_t errors = ERRORSRC;
    ERRORSRC = errors;
    return byte;
}

void port_uart_flush(void) {
    while (sending && TXDRDY == 0) {
    }
    TXDRDY = 0;
    sending = 0;
}

void port_uart_put(uint8_t byte) {
    port_uart_flush();
    sending = 1;
    TXD = byte;
}
