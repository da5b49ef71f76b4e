/* What npu_ethosu.c calls of Arm's Ethos-U core driver, declared here so that it compiles without the driver.
 * The driver itself is the user's: its library is linked from ETHOS_U_DRIVER_DIR. */
#ifndef BITSHIP_ETHOSU_API_H
#define BITSHIP_ETHOSU_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ethosu_driver;

struct ethosu_driver *ethosu_reserve_driver(void);
void ethosu_release_driver(struct ethosu_driver *drv);
int ethosu_invoke_async(struct ethosu_driver *drv, const void *custom_data_ptr, const int custom_data_size,
                        uint64_t *const base_addr, const size_t *base_addr_size, const int num_base_addr,
                        void *user_arg);
int ethosu_wait(struct ethosu_driver *drv, bool block); /* 0 done, 1 running, negative: failed */

#endif
