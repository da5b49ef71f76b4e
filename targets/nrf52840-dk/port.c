/* nRF52840 DK: 64 MHz, serial port on P0.06 and P0.08, marker on P1.08. */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART(offset) REGISTER(0x40002000u + (offset))
#define PORT(number, offset) REGISTER(0x50000000u + 0x300u * (number) + (offset))
#define OUTSET 0x508u
#define PIN(number) (0x700u + 4u * (number))
#define DISCONNECTED 0xFFFFFFFFu

void port_board_start(void) {

    REGISTER(0x4001E540u) = 1; /* NVMC.ICACHECNF */
    REGISTER(0x40000100u) = 0;
    REGISTER(0x40000000u) = 1; /* the crystal: the internal oscillator is too far off for a UART at speed */
    while (REGISTER(0x40000100u) == 0) {
    }
    PORT(0u, OUTSET) = 1u << 6;
    PORT(0u, PIN(6u)) = 3;       /* output, input buffer off */
    PORT(0u, PIN(8u)) = 3u << 2; /* input, pulled up */
    UART(0x508u) = DISCONNECTED; /* RTS */
    UART(0x50Cu) = 6u;           /* TXD */
    UART(0x510u) = DISCONNECTED; /* CTS */
    UART(0x514u) = 8u;           /* RXD */
    PORT(1u, OUTSET) = 1u << 8;  /* high before it drives */
    PORT(1u, PIN(8u)) = 3;
}
