/* Arduino Nano 33 BLE behind its loader: 64 MHz, serial port on TX1 (P1.03) and RX0 (P1.10), marker on D7. */
#include "arm/nrf52840.h"
#include "port.h"

void port_board_start(void) {
    nrf52840_own_vectors();
    nrf52840_start(NRF52840_PIN(1u, 3u), NRF52840_PIN(1u, 10u), NRF52840_PIN(0u, 23u));
}
