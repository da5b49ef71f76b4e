/* vectors.c as a program of a computer: what port.h asks for, on files. */
#include "../app/port.h"

#include <stdio.h>
#include <string.h>

static FILE *files[2];
static int opened;
static const char *const *words;

int port_command_line(char *line, int32_t bytes) {
    const int n = snprintf(line, (size_t)bytes, "image %s %s", words[1], words[2]);
    return n > 0 && n < bytes ? 0 : -1;
}

int32_t port_open(const char *name, int writing) {
    if (opened == 2 || (files[opened] = fopen(name, writing ? "wb" : "rb")) == NULL) {
        return -1;
    }
    return opened++;
}

int port_read(int32_t handle, void *data, int32_t bytes) {
    return fread(data, 1, (size_t)bytes, files[handle]) == (size_t)bytes ? 0 : -1;
}

int port_write(int32_t handle, const void *data, int32_t bytes) {
    return fwrite(data, 1, (size_t)bytes, files[handle]) == (size_t)bytes ? 0 : -1;
}

void port_close(int32_t handle) { (void)fclose(files[handle]); }

void port_ticks_start(void) {}

uint64_t port_ticks(void) { return 0; }

int main(int argc, const char *const *argv) {
    if (argc != 3) {
        return PORT_EXIT_USAGE;
    }
    words = argv;
    return port_main();
}
