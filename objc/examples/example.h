/* Shared by both examples: operands, and the plain formula to compare with. */
#import "MFABridge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the library's own message. */
static void stop(NSError *error) {
  fprintf(stderr, "%s: %s\n", [[error localizedFailureReason] UTF8String], [[error localizedDescription] UTF8String]);
  exit(1);
}

/* A buffer of `count` FP32 numbers; zeros. */
static id<MTLBuffer> floats(id<MTLDevice> device, NSUInteger count) {
  id<MTLBuffer> buffer = [device newBufferWithLength:count * sizeof(float) options:MTLResourceStorageModeShared];
  if (buffer == nil) {
    fprintf(stderr, "the device has no memory for %lu numbers\n", (unsigned long)count);
    exit(1);
  }
  return buffer;
}

/* Pseudo-random numbers with zero mean and unit variance (the sum of twelve uniform ones, less six). */
static id<MTLBuffer> random_floats(id<MTLDevice> device, NSUInteger count, uint32_t seed) {
  id<MTLBuffer> buffer = floats(device, count);
  float *data = [buffer contents];
  for (NSUInteger i = 0; i < count; i++) {
    float sum = -6.0f;
    for (int j = 0; j < 12; j++) {
      seed = seed * 1664525u + 1013904223u;
      sum += (float)(seed >> 8) / 16777216.0f;
    }
    data[i] = sum;
  }
  return buffer;
}

/* Adds the squares of the differences from attention of one head in double precision, and of the latter:
 * O = softmax(scale * Q K^T) V, row by row. */
static void compare(const float *q, const float *k, const float *v, const float *o, NSUInteger rows_q,
                    NSUInteger rows_k, NSUInteger columns, double scale, BOOL causal, double *error, double *power) {
  double *scores = malloc(rows_k * sizeof *scores);
  if (scores == NULL) {
    fprintf(stderr, "no memory for the scores of a row\n");
    exit(1);
  }
  for (NSUInteger i = 0; i < rows_q; i++) {
    const NSUInteger visible = causal && i + 1 < rows_k ? i + 1 : rows_k;
    double highest = -INFINITY, sum = 0.0;
    for (NSUInteger j = 0; j < visible; j++) {
      double dot = 0.0;
      for (NSUInteger c = 0; c < columns; c++) dot += (double)q[i * columns + c] * (double)k[j * columns + c];
      scores[j] = scale * dot;
      highest = fmax(highest, scores[j]);
    }
    for (NSUInteger j = 0; j < visible; j++) {
      scores[j] = exp(scores[j] - highest);
      sum += scores[j];
    }
    for (NSUInteger c = 0; c < columns; c++) {
      double value = 0.0;
      for (NSUInteger j = 0; j < visible; j++) value += scores[j] * (double)v[j * columns + c];
      value /= sum;
      const double difference = (double)o[i * columns + c] - value;
      *error += difference * difference;
      *power += value * value;
    }
  }
  free(scores);
}
