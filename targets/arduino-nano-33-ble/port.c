/* Arduino Nano 33 BLE behind its loader: 64 MHz, serial port on TX1 (P1.03) and RX0 (P1.10), marker on D7. */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART(offset) REGISTER(0x40002000u + (offset))
#define PORT(number, offset) REGISTER(0x50000000u + 0x300u * (number) + (offset))
#define OUTSET 0x508u
#define PIN(number) (0x700u + 4u * (number))
#define DISCONNECTED 0xFFFFFFFFu
extern uint32_t __vectors[];
void port_board_start(void) {
    REGISTER(0xE000ED08u) = (uint32_t)(uintptr_t)__vectors; /* VTOR: not the loader's */
    REGISTER(0x4001E540u) = 1;                              /* NVMC.ICACHECNF */
    REGISTER(0x40000100u) = 0;
    REGISTER(0x40000000u) = 1; /* the crystal: the internal oscillator is too far off for a UART at speed */
    while (REGISTER(0x40000100u) == 0) {
    }
    PORT(1u, OUTSET) = 1u << 3;
    PORT(1u, PIN(3u)) = 3;        /* output, input buffer off */
    PORT(1u, PIN(10u)) = 3u << 2; /* input, pulled up */
    UART(0x508u) = DISCONNECTED;  /* RTS */
    UART(0x50Cu) = 1u << 5 | 3u;  /* TXD */
    UART(0x510u) = DISCONNECTED;  /* CTS */
    UART(0x514u) = 1u << 5 | 10u; /* RXD */
    PORT(0u, OUTSET) = 1u << 23;  /* high before it drives */
    PORT(0u, PIN(23u)) = 3;
}
