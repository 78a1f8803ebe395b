/* Shared by the examples: an error check, operands, and a measure of errors. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <math.h>
#include <mfa.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the library's own message if a call failed. */
static void check(int32_t status, void* context) {
  if (status != MFA_SUCCESS) {
    fprintf(stderr, "%s: %s\n", mfa_error_string(status), mfa_last_error(context));
    exit(1);
  }
}

/* Ends the program if the machine has no more memory. */
static float* floats(size_t count) {
  float* data = (float*)malloc(count * sizeof(float));
  if (data == NULL) {
    fprintf(stderr, "no memory for %lu floats\n", (unsigned long)count);
    exit(1);
  }
  return data;
}

/* Pseudo-random numbers with zero mean and unit variance (the sum of twelve uniform ones, less six). */
static void fill(float* data, size_t count, uint32_t seed) {
  size_t i;
  int j;
  for (i = 0; i < count; ++i) {
    float sum = -6.0f;
    for (j = 0; j < 12; ++j) {
      seed = seed * 1664525u + 1013904223u;
      sum += (float)(seed >> 8) / 16777216.0f;
    }
    data[i] = sum;
  }
}

/* sqrt(mean((found - expected)^2)) / sqrt(mean(expected^2)) */
static double relative_rmse(const float* found, const double* expected, size_t count) {
  double error = 0.0, power = 0.0;
  size_t i;
  for (i = 0; i < count; ++i) {
    const double difference = (double)found[i] - expected[i];
    error += difference * difference;
    power += expected[i] * expected[i];
  }
  return sqrt(error / power);
}

#endif /* EXAMPLE_H */
