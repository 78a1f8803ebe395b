/*
 * The training sequence: forward on FP32 queries and INT8 keys and values, then the query pass (dQ and D), then the key/value
 * pass (dK and dV). The context remembers the forward call's precisions and scales; without that call, backward is refused.
 * Gradients are with respect to the real values (rounding counts as identity), and are checked against the plain formulas.
 */
#include <string.h>

#include "example.h"

enum { HEADS = 4, ROWS = 96, COLUMNS = 32, HEAD = ROWS * COLUMNS, COUNT = HEADS * HEAD };

/* Rounds `source` to INT8 with one scale, and overwrites it with the real values that the integers stand for. */
static float quantize(void* context, float* source, void* stored) {
  void *real = NULL, *scale = NULL, *contents = NULL;
  mfa_quantization quantization;
  mfa_quantize_desc desc;
  float found;

  check(mfa_buffer_from_ptr(context, source, COUNT * sizeof *source, &real), context);
  check(mfa_create_buffer(context, sizeof(float), &scale), context);
  memset(&quantization, 0, sizeof quantization);
  quantization.struct_size = sizeof quantization;
  quantization.scale_buffer = scale;
  memset(&desc, 0, sizeof desc);
  desc.struct_size = sizeof desc;
  desc.source.buffer = real;
  desc.source.precision = MFA_PRECISION_FP32;
  desc.source.shape[0] = 1, desc.source.shape[1] = HEADS, desc.source.shape[2] = ROWS, desc.source.shape[3] = COLUMNS;
  desc.source.strides[0] = COUNT, desc.source.strides[1] = HEAD, desc.source.strides[2] = COLUMNS;
  desc.source.strides[3] = 1;
  desc.destination = desc.source;
  desc.destination.buffer = stored;
  desc.destination.precision = MFA_PRECISION_INT8;
  desc.destination.quantization = &quantization;
  check(mfa_quantize(context, &desc), context);
  check(mfa_dequantize(context, &desc.destination, &desc.source), context);
  check(mfa_buffer_contents(scale, &contents), context);
  found = *(float*)contents;
  check(mfa_destroy_buffer(real), context);
  check(mfa_destroy_buffer(scale), context);
  return found;
}

/* Causal attention of one head and its gradients in double precision: see mfa_backward_desc for the formulas. */
static void plain_gradients(const float* q, const float* k, const float* v, const float* grad, double scale, double* dq,
                            double* dk, double* dv) {
  double p[ROWS], dp[ROWS];
  int i, j, c;
  memset(dq, 0, HEAD * sizeof *dq);
  memset(dk, 0, HEAD * sizeof *dk);
  memset(dv, 0, HEAD * sizeof *dv);
  for (i = 0; i < ROWS; ++i) {
    double highest = -HUGE_VAL, sum = 0.0, d = 0.0;
    for (j = 0; j <= i; ++j) {
      p[j] = dp[j] = 0.0;
      for (c = 0; c < COLUMNS; ++c) {
        p[j] += scale * (double)q[i * COLUMNS + c] * (double)k[j * COLUMNS + c];
        dp[j] += (double)grad[i * COLUMNS + c] * (double)v[j * COLUMNS + c];
      }
      if (p[j] > highest) highest = p[j];
    }
    for (j = 0; j <= i; ++j) sum += exp(p[j] - highest);
    for (j = 0; j <= i; ++j) {
      p[j] = exp(p[j] - highest) / sum;
      d += p[j] * dp[j];
    }
    for (j = 0; j <= i; ++j) {
      const double ds = scale * p[j] * (dp[j] - d);
      for (c = 0; c < COLUMNS; ++c) {
        dv[j * COLUMNS + c] += p[j] * (double)grad[i * COLUMNS + c];
        dq[i * COLUMNS + c] += ds * (double)k[j * COLUMNS + c];
        dk[j * COLUMNS + c] += ds * (double)q[i * COLUMNS + c];
      }
    }
  }
}

int main(void) {
  enum { Q, K, V, O, L, D, GRAD, DQ, DK, DV, ARRAYS };
  const float scale = 1.0f / sqrtf((float)COLUMNS);
  const char* const names[3] = {"dQ", "dK", "dV"};
  float* arrays[ARRAYS];
  void *context = NULL, *buffers[ARRAYS], *key = NULL, *value = NULL;
  static double expected[3][HEAD];
  double worst[3] = {0.0, 0.0, 0.0};
  float k_scale, v_scale;
  int32_t status;
  int a, h, g, failures = 0;

  check(mfa_create_context(&context), NULL);
  for (a = 0; a < ARRAYS; ++a) {
    arrays[a] = floats(COUNT);
    fill(arrays[a], COUNT, (uint32_t)a + 1);
    check(mfa_buffer_from_ptr(context, arrays[a], COUNT * sizeof(float), &buffers[a]), context);
  }
  check(mfa_create_buffer(context, COUNT, &key), context);
  check(mfa_create_buffer(context, COUNT, &value), context);
  k_scale = quantize(context, arrays[K], key);
  v_scale = quantize(context, arrays[V], value);

  /* Nothing to go back from yet. */
  status = mfa_attention_backward_query_quantized(context, buffers[Q], key, value, buffers[GRAD], buffers[L], buffers[DQ],
                                                  buffers[D], 1, ROWS, ROWS, HEADS, COLUMNS, 1.0f, 0);
  printf("before forward: %s: %s\n", mfa_error_string(status), mfa_last_error(context));
  if (status != MFA_ERROR_INVALID_ARGUMENT) ++failures;

  check(mfa_attention_forward_quantized(context, buffers[Q], key, value, buffers[O], buffers[L], 1, ROWS, ROWS, HEADS,
                                        COLUMNS, scale, true, MFA_PRECISION_FP32, MFA_PRECISION_INT8, MFA_PRECISION_INT8,
                                        1.0f, 0, k_scale, 0, v_scale, 0, false, false, false, false),
        context);
  check(mfa_attention_backward_query_quantized(context, buffers[Q], key, value, buffers[GRAD], buffers[L], buffers[DQ],
                                               buffers[D], 1, ROWS, ROWS, HEADS, COLUMNS, 1.0f, 0),
        context);
  check(mfa_attention_backward_kv_quantized(context, buffers[Q], key, value, buffers[GRAD], buffers[L], buffers[D],
                                            buffers[DK], buffers[DV], 1, ROWS, ROWS, HEADS, COLUMNS, 1.0f, 0, k_scale, 0,
                                            v_scale, 0),
        context);

  for (h = 0; h < HEADS; ++h) {
    const size_t at = (size_t)h * HEAD;
    plain_gradients(arrays[Q] + at, arrays[K] + at, arrays[V] + at, arrays[GRAD] + at, (double)scale, expected[0],
                    expected[1], expected[2]);
    for (g = 0; g < 3; ++g) {
      const double error = relative_rmse(arrays[DQ + g] + at, expected[g], HEAD);
      if (error > worst[g]) worst[g] = error;
    }
  }
  for (g = 0; g < 3; ++g) {
    printf("%s: relative RMSE of the worst head %.1e\n", names[g], worst[g]);
    if (!(worst[g] < 1e-4)) ++failures;
  }

  check(mfa_destroy_buffer(key), context);
  check(mfa_destroy_buffer(value), context);
  for (a = 0; a < ARRAYS; ++a) {
    check(mfa_destroy_buffer(buffers[a]), context);
    free(arrays[a]);
  }
  check(mfa_destroy_context(context), NULL);
  return failures;
}
