/* The cases of vectors/manifest.txt, whose grammar is at its top. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mfa.h"

enum { MAX_ITEMS = 32 };

typedef struct vector_buffer {
  bool room;       /* 0xFF bytes to be written; otherwise data to be read */
  uint64_t offset; /* of data, in the case's bytes */
  uint64_t size;
} vector_buffer;

typedef struct vector_tensor {
  char role[24];
  int buffer;
  bool quantized;
  int scale_buffer, zero_point_buffer, mean_buffer; /* of the quantization; -1 = none */
  mfa_quantization quantization;
  mfa_tensor view; /* buffer handles and the pointer to the quantization are still missing */
} vector_tensor;

typedef struct vector_expectation {
  enum { EXPECT_VALUES, EXPECT_BYTES, EXPECT_ERROR } kind;
  char role[24];       /* VALUES */
  int buffer;          /* BYTES */
  uint64_t offset;     /* VALUES, BYTES */
  double max, rms;     /* VALUES: the largest errors allowed */
  double report[4];    /* ERROR */
  double share;        /* VALUES: what was found, as a share of what is allowed; set by the check */
} vector_expectation;

typedef struct vector_case {
  char name[96], call[16];
  int status;
  unsigned char* bytes;
  int buffer_count, tensor_count, expectation_count;
  vector_buffer buffers[MAX_ITEMS];
  vector_tensor tensors[MAX_ITEMS];
  vector_expectation expectations[MAX_ITEMS];
  mfa_attention_options options;
  int cu_buffers[2]; /* of query and key; -1 = none */
  uint32_t flags;
} vector_case;

/* Reads the next case of a manifest. Returns 1, or 0 at its end; a malformed manifest ends the program. */
int vector_next(FILE* manifest, const char* folder, vector_case* out);
void vector_free(vector_case* of);

/* The tensor of that role, or NULL. */
vector_tensor* vector_find(vector_case* in, const char* role);

#endif
