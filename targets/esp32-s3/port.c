/* The port of an ESP32-S3 under ESP-IDF: its UART driver, the core's cycle counter, a GPIO, the main task's
 * stack. */
#include "port.h"

#include "driver/gpio.h"
#include "driver/uart.h"
#include "esp_cpu.h"
#include "esp_system.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#define LINE UART_NUM_0
#define INPUT_BYTES 2048

static uint32_t last, wraps;

void app_main(void);

void app_main(void) { port_exit(port_main()); }

void port_exit(int code) {
    (void)code;
    port_restart();
}

void port_restart(void) {
    esp_restart();
    for (;;) {
    }
}

void port_uart_start(uint32_t baud) {
    const uart_config_t config = {.baud_rate = (int)baud,
                                  .data_bits = UART_DATA_8_BITS,
                                  .parity = UART_PARITY_DISABLE,
                                  .stop_bits = UART_STOP_BITS_1,
                                  .flow_ctrl = UART_HW_FLOWCTRL_DISABLE,
                                  .source_clk = UART_SCLK_XTAL};
    (void)uart_driver_install(LINE, INPUT_BYTES, 0, 0, NULL, 0);
    (void)uart_param_config(LINE, &config);
}

int port_uart_get(void) {
    uint8_t byte;
    return uart_read_bytes(LINE, &byte, 1, 0) == 1 ? (int)byte : -1;
}

void port_uart_put(uint8_t byte) { (void)uart_write_bytes(LINE, &byte, 1); }

void port_uart_flush(void) { (void)uart_wait_tx_done(LINE, portMAX_DELAY); }

void port_ticks_start(void) {
    last = esp_cpu_get_cycle_count();
    wraps = 0;
}

uint64_t port_ticks(void) {
    const uint32_t now = esp_cpu_get_cycle_count();
    wraps += now < last;
    last = now;
    return ((uint64_t)wraps << 32) + now;
}

void port_marker_start(void) {
    (void)gpio_reset_pin(BITSHIP_MARKER_BIT);
    (void)gpio_set_level(BITSHIP_MARKER_BIT, 1);
    (void)gpio_set_direction(BITSHIP_MARKER_BIT, GPIO_MODE_OUTPUT);
}

void port_marker(int level) { (void)gpio_set_level(BITSHIP_MARKER_BIT, level ? 1u : 0u); }

/* FreeRTOS paints the stacks of its tasks itself. */
void port_stack_paint(void) {}

int32_t port_stack_bytes(void) {
    return CONFIG_ESP_MAIN_TASK_STACK_SIZE - (int32_t)uxTaskGetStackHighWaterMark(NULL);
}
