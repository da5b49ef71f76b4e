/* UART of Arm's CMSDK, as on the MPS2 and MPS3 boards: one byte each way. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_UART + (uint32_t)(offset)))
#define DATA REGISTER(0x00)
#define STATE REGISTER(0x04) /* errors are cleared by writing them */
#define CTRL REGISTER(0x08)
#define BAUDDIV REGISTER(0x10)

#define TX_FULL 1u
#define RX_FULL 2u
#define OVERRUNS 12u

static uint32_t byte_loops;

void port_uart_start(uint32_t baud) {
    BAUDDIV = (BITSHIP_UART_HZ + baud / 2) / baud;
    CTRL = 3;
    byte_loops = BITSHIP_UART_HZ / baud * 10;
}

int port_uart_get(void) {
    const uint32_t state = STATE;
    if (state & OVERRUNS) {
        STATE = OVERRUNS;
    }
    return state & RX_FULL ? (int)(DATA & 0xFFu) : -1;
}

void port_uart_put(uint8_t byte) {
    while (STATE & TX_FULL) {
    }
    DATA = byte;
}

void port_uart_flush(void) {
    while (STATE & TX_FULL) {
    }
    for (volatile uint32_t i = 0; i < byte_loops; i++) { /* the shift register does not show: a byte's time */
    }
}
