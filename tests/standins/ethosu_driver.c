/* Stands in for Arm's Ethos-U core driver in tests of the NPU port (firmware/npu).
 *
 * It models the order of calls, one device that must be initialised, what a command stream must begin with,
 * and completion after some polls. It does not model the NPU: no command is executed, no interrupt is raised.
 * What a stream does to memory is a test's: `standin_runs`, called with the stream and its bases, or
 * STANDIN_FILL, a byte that fills the memory of region 1. */
#include "ethosu_driver.h"

#include <string.h>

static struct ethosu_driver *device;
int standin_reservations, standin_bases, standin_size, standin_fails, standin_streams;
uint64_t standin_base[8], standin_registers;
size_t standin_base_size[8];
void (*standin_runs)(const void *commands, int size, const uint64_t *bases, const size_t *sizes, int count);

int ethosu_init(struct ethosu_driver *drv, void *const base_address, const void *fast_memory,
                const size_t fast_memory_size, uint32_t secure_enable, uint32_t privilege_enable) {
    (void)fast_memory;
    (void)fast_memory_size;
    (void)secure_enable;
    (void)privilege_enable;
    if (ethosu_semaphore_create() == NULL) {
        return -1;
    }
    standin_registers = (uint64_t)(uintptr_t)base_address;
    drv->registered = 1;
    device = drv;
    return 0;
}

/* Weak, as Arm's: an image without a heap has its own. */
__attribute__((weak)) void *ethosu_semaphore_create(void) {
    static uint32_t semaphore;
    return &semaphore;
}

void ethosu_irq_handler(struct ethosu_driver *drv) { drv->polls_left = 0; }

struct ethosu_driver *ethosu_reserve_driver(void) {
    if (device == NULL || device->reserved) {
        return NULL;
    }
    device->reserved = 1;
    standin_reservations++;
    return device;
}

void ethosu_release_driver(struct ethosu_driver *drv) { drv->reserved = 0; }

int ethosu_invoke_async(struct ethosu_driver *drv, const void *custom_data_ptr, const int custom_data_size,
                        uint64_t *const base_addr, const size_t *base_addr_size, const int num_base_addr,
                        void *user_arg) {
    (void)user_arg;
    if (memcmp(custom_data_ptr, "COP1", 4) != 0) {
        return -1;
    }
    standin_streams++;
    standin_size = custom_data_size;
    standin_bases = num_base_addr;
    memcpy(standin_base, base_addr, (size_t)num_base_addr * sizeof *base_addr);
    memcpy(standin_base_size, base_addr_size, (size_t)num_base_addr * sizeof *base_addr_size);
    if (standin_runs != NULL) {
        standin_runs(custom_data_ptr, custom_data_size, base_addr, base_addr_size, num_base_addr);
    }
#if defined(STANDIN_FILL)
    memset((void *)(uintptr_t)base_addr[1], STANDIN_FILL, base_addr_size[1]);
#endif
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
