/* Characters on the serial port: commands in, lines out. */
#ifndef BITSHIP_TEXT_H
#define BITSHIP_TEXT_H

#include <stdint.h>

/* Receive the next command into `line`, ended by '%' on the port and by 0 here; what is no character is left
 * out. Its length, or -1 when it was longer than size - 1: all of it is gone. */
int32_t text_command(char *line, int32_t size);

/* The next word of a command, ended by a zero; a null pointer at its end. */
char *text_word(char **line);
int text_is(const char *word, const char *wanted);
/* A decimal number up to 2^31 - 1, or -1 when the word is none, or a null pointer. */
int32_t text_number(const char *word);
/* Two hexadecimal digits, or -1. */
int text_byte(const char *digits);
/* Hexadecimal digits into bytes; how many, or -1 when they are odd, wrong, or more than `most` bytes. */
int32_t text_bytes(const char *digits, uint8_t *to, int32_t most);

void put_text(const char *text);
void put_number(uint64_t value);
void put_hex(uint32_t value, int digits);
void put_bytes(const void *data, int32_t bytes);
/* A word that came in, its strange characters replaced, at most 32 of them. */
void put_word(const char *word);
void put_line(const char *text);

/* The crc of all that was put since the last text_crc_start. */
void text_crc_start(void);
uint32_t text_crc(void);

/* value / divisor, the rest to *rest; no library function, so that the stack has a bound. */
uint64_t text_divide(uint64_t value, uint32_t divisor, uint32_t *rest);

#endif
