/* The runner of the vectors without the calls, which each language makes in its own way. */
#ifndef RUNNER_H
#define RUNNER_H

#include "check.h"
#include "vectors.h"

/* One case on the way through the driver. */
typedef struct live_case {
  vector_case* c;
  live_buffer buffers[MAX_ITEMS];
  mfa_quantization_error report; /* of quantize */
} live_case;

/* A language. Calls return a status of the contract. */
typedef struct binding {
  /* Opens the driver of a library; NULL: the one that is linked. Returns NULL, or what is wrong. */
  const char* (*open)(const char* library);
  void (*close)(void);
  const char* (*device)(void);
  /* The message for the last call that failed. */
  const char* (*message)(void);
  /* Makes the case's buffers and fills them (data: its bytes; room: 0xFF). Failure ends the program. */
  void (*create)(live_case* live);
  void (*destroy)(live_case* live);
  int32_t (*forward)(live_case* live);
  int32_t (*backward)(live_case* live);
  int32_t (*quantize)(live_case* live);
  int32_t (*dequantize)(live_case* live);
  int32_t (*plain)(live_case* live);
  int32_t (*training_forward)(live_case* live);
  int32_t (*training_backward)(live_case* live);
  /* Bad handles and structs, before any case. May be NULL. */
  void (*bad_input)(int* passed, int* failed, int* skipped);
} binding;

/*
 * The program: arguments and exit status as conformance.c says.
 */
int runner_main(int argc, char** argv, const binding* language);

#endif
