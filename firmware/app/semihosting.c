/* Files on the host, the command line and the exit code, by semihosting: requests to a debugger or emulator.
 */
#include "port.h"

#define SYS_OPEN 0x01u
#define SYS_CLOSE 0x02u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_GET_CMDLINE 0x15u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u

static uint32_t address(const void *p) { return (uint32_t)(uintptr_t)p; }

void port_exit(int code) {
    uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    for (;;) {
        (void)port_request(SYS_EXIT_EXTENDED, block);
    }
}

int port_command_line(char *line, int32_t bytes) {
    uint32_t block[2] = {address(line), (uint32_t)bytes};
    return port_request(SYS_GET_CMDLINE, block) == 0 ? 0 : -1;
}

int32_t port_open(const char *name, int writing) {
    uint32_t length = 0;
    while (name[length] != 0) {
        length++;
    }
    uint32_t block[3] = {address(name), writing ? 5u : 1u, length}; /* "wb", "rb" */
    return port_request(SYS_OPEN, block);
}

int port_read(int32_t handle, void *data, int32_t bytes) {
    uint32_t block[3] = {(uint32_t)handle, address(data), (uint32_t)bytes};
    return port_request(SYS_READ, block) == 0 ? 0 : -1;
}

int port_write(int32_t handle, const void *data, int32_t bytes) {
    uint32_t block[3] = {(uint32_t)handle, address(data), (uint32_t)bytes};
    return port_request(SYS_WRITE, block) == 0 ? 0 : -1;
}

void port_close(int32_t handle) {
    uint32_t block[1] = {(uint32_t)handle};
    (void)port_request(SYS_CLOSE, block);
}
