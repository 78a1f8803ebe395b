/* The plain formula, to compare with. */
#ifndef PLAIN_H
#define PLAIN_H

#include "example.h"

/* Attention of one head in double precision, row by row: O = softmax(scale * Q K^T) V. */
static void plain_attention(const float* q, const float* k, const float* v, double* o, size_t rows_q, size_t rows_k,
                            size_t columns, double scale, bool causal) {
  double* scores = (double*)malloc(rows_k * sizeof(double));
  size_t i, j, c;
  if (scores == NULL) {
    fprintf(stderr, "no memory for the scores\n");
    exit(1);
  }
  for (i = 0; i < rows_q; ++i) {
    const size_t visible = causal && i + 1 < rows_k ? i + 1 : rows_k;
    double highest = -HUGE_VAL, sum = 0.0;
    for (j = 0; j < visible; ++j) {
      double dot = 0.0;
      for (c = 0; c < columns; ++c) dot += (double)q[i * columns + c] * (double)k[j * columns + c];
      scores[j] = scale * dot;
      if (scores[j] > highest) highest = scores[j];
    }
    for (j = 0; j < visible; ++j) {
      scores[j] = exp(scores[j] - highest);
      sum += scores[j];
    }
    for (c = 0; c < columns; ++c) {
      double value = 0.0;
      for (j = 0; j < visible; ++j) value += scores[j] * (double)v[j * columns + c];
      o[i * columns + c] = value / sum;
    }
  }
  free(scores);
}

#endif /* PLAIN_H */
