/* The cases of vectors/: the grammar is at the top of its manifest.txt. */
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

/* A folder of vectors that is read case by case. */
typedef struct vector_reader {
  const char* folder;
  FILE *manifest, *family; /* NULL between two families */
} vector_reader;

/* Missing and malformed files end the program, here and below. */
void vector_open(vector_reader* reader, const char* folder);
void vector_close(vector_reader* reader);

/* Reads the next case. Returns 1, or 0 at the end. */
int vector_next(vector_reader* reader, vector_case* out);
void vector_free(vector_case* of);

/* The tensor of that role, or NULL. */
vector_tensor* vector_find(vector_case* in, const char* role);

#endif
