/* What the C tests share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1);                                                       \
    }                                                                 \
  } while (0)

#define TEXT(s) (s), strlen(s)
#define BYTES(s) (const uint8_t *)(s), strlen(s)

/* Milliseconds until a test gives up. */
#define PATIENCE 80000

#endif
