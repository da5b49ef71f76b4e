/* This project's own commands: "x SEQ COMMAND ... CRC%". */
#ifndef BITSHIP_EXTENSIONS_H
#define BITSHIP_EXTENSIONS_H

/* Run a command line whose first word, "x", is gone. */
void extension(char *line);

#endif
