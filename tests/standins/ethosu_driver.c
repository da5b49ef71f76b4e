/* Stands in for Arm's Ethos-U core driver in tests of the NPU port (firmware/npu).
 *
 * It models the order of calls, one device, what a command stream must begin with, and completion after some
 * polls. It does not model the NPU: no command is executed, no memory is written. */
#include <string.h>

#include "ethosu_api.h"

struct ethosu_driver {
    int reserved, polls_left;
};

static struct ethosu_driver device;
int standin_reservations, standin_bases, standin_size, standin_fails;
uint64_t standin_base[8];

struct ethosu_driver *ethosu_reserve_driver(void) {
    if (device.reserved) {
        return NULL;
    }
    device.reserved = 1;
    standin_reservations++;
    return &device;
}

void ethosu_release_driver(struct ethosu_driver *drv) { drv->reserved = 0; }

int ethosu_invoke_async(struct ethosu_driver *drv, const void *custom_data_ptr, const int custom_data_size,
                        uint64_t *const base_addr, const size_t *base_addr_size, const int num_base_addr,
                        void *user_arg) {
    (void)base_addr_size;
    (void)user_arg;
    if (memcmp(custom_data_ptr, "COP1", 4) != 0) {
        return -1;
    }
    standin_size = custom_data_size;
    standin_bases = num_base_addr;
    memcpy(standin_base, base_addr, (size_t)num_base_addr * sizeof *base_addr);
    drv->polls_left = 3;
    return 0;
}

int ethosu_wait(struct ethosu_driver *drv, bool block) {
    (void)block;
    if (drv->polls_left-- > 0) {
        return 1;
    }
    return standin_fails ? -2 : 0;
}
