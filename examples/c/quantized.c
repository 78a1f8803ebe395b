/*
 * Attention on keys and values stored as INT8 and INT4, one scale per row: what rounding did to them, what they take, and
 * what comes out. The general call takes views of buffers, so grouped heads need no copies: 8 query heads share 2 key heads.
 */
#include <string.h>

#include "plain.h"

enum { HEADS = 8, KEY_HEADS = 2, ROWS = 64, KEY_ROWS = 512, COLUMNS = 64 };

/* A contiguous view of [1, heads, rows, columns]. */
static mfa_tensor view(void* buffer, int32_t precision, uint64_t heads, uint64_t rows, uint64_t columns) {
  mfa_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.buffer = buffer;
  tensor.precision = precision;
  tensor.shape[0] = 1;
  tensor.shape[1] = heads;
  tensor.shape[2] = rows;
  tensor.shape[3] = columns;
  tensor.strides[0] = (int64_t)(heads * rows * columns);
  tensor.strides[1] = (int64_t)(rows * columns);
  tensor.strides[2] = (int64_t)columns;
  tensor.strides[3] = 1;
  return tensor;
}

/* A quantized tensor and the buffers that hold it. */
typedef struct quantized {
  void* data;
  void* scales;
  mfa_quantization quantization;
  mfa_tensor tensor;
  uint64_t bytes;
} quantized;

/* Rounds keys or values to `precision`, with one scale per row; reports the relative RMSE of doing so. */
static void quantize(void* context, quantized* result, const mfa_tensor* source, int32_t precision, double* error) {
  const uint64_t rows = source->shape[1] * source->shape[2];
  const uint64_t bits = precision == MFA_PRECISION_INT4 ? 4 : 8;
  mfa_quantize_desc desc;
  mfa_quantization_error report;

  memset(result, 0, sizeof *result);
  check(mfa_create_buffer(context, rows * source->shape[3] * bits / 8, &result->data), context);
  check(mfa_create_buffer(context, rows * sizeof(float), &result->scales), context);
  result->bytes = rows * source->shape[3] * bits / 8 + rows * sizeof(float);
  result->quantization.struct_size = sizeof result->quantization;
  result->quantization.granularity = MFA_GRANULARITY_ROW;
  result->quantization.scale_buffer = result->scales;
  result->quantization.scale_precision = MFA_PRECISION_FP32;
  result->tensor = *source;
  result->tensor.buffer = result->data;
  result->tensor.precision = precision;
  result->tensor.quantization = &result->quantization;

  memset(&desc, 0, sizeof desc);
  memset(&report, 0, sizeof report);
  desc.struct_size = sizeof desc;
  desc.source = *source;
  desc.destination = result->tensor;
  desc.error = &report;
  check(mfa_quantize(context, &desc), context);
  *error = report.relative_rmse;
}

int main(void) {
  const size_t query_count = (size_t)HEADS * ROWS * COLUMNS, key_count = (size_t)KEY_HEADS * KEY_ROWS * COLUMNS;
  const int32_t precisions[2] = {MFA_PRECISION_INT8, MFA_PRECISION_INT4};
  const char* const names[2] = {"INT8", "INT4"};
  const double bounds[2] = {0.02, 0.25};
  float *q = floats(query_count), *k = floats(key_count), *v = floats(key_count), *o = floats(query_count);
  double* expected;
  void *context = NULL, *query = NULL, *key = NULL, *value = NULL, *output = NULL;
  mfa_tensor key_view, value_view;
  size_t i;
  int failures = 0, p;

  fill(q, query_count, 1);
  fill(k, key_count, 2);
  fill(v, key_count, 3);
  expected = (double*)malloc(query_count * sizeof *expected);
  if (expected == NULL) {
    fprintf(stderr, "no memory for the expected output\n");
    return 1;
  }
  for (i = 0; i < HEADS; ++i) {
    const size_t row = i * ROWS * COLUMNS, group = i / (HEADS / KEY_HEADS) * KEY_ROWS * COLUMNS;
    plain_attention(q + row, k + group, v + group, expected + row, ROWS, KEY_ROWS, COLUMNS, 1.0 / sqrt((double)COLUMNS),
                    false);
  }

  check(mfa_create_context(&context), NULL);
  check(mfa_buffer_from_ptr(context, q, query_count * sizeof *q, &query), context);
  check(mfa_buffer_from_ptr(context, k, key_count * sizeof *k, &key), context);
  check(mfa_buffer_from_ptr(context, v, key_count * sizeof *v, &value), context);
  check(mfa_buffer_from_ptr(context, o, query_count * sizeof *o, &output), context);
  key_view = view(key, MFA_PRECISION_FP32, KEY_HEADS, KEY_ROWS, COLUMNS);
  value_view = view(value, MFA_PRECISION_FP32, KEY_HEADS, KEY_ROWS, COLUMNS);

  for (p = 0; p < 2; ++p) {
    quantized quantized_key, quantized_value;
    mfa_forward_desc desc;
    double key_error, value_error, error;

    quantize(context, &quantized_key, &key_view, precisions[p], &key_error);
    quantize(context, &quantized_value, &value_view, precisions[p], &value_error);
    memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.query = view(query, MFA_PRECISION_FP32, HEADS, ROWS, COLUMNS);
    desc.key = quantized_key.tensor;
    desc.value = quantized_value.tensor;
    desc.output = view(output, MFA_PRECISION_FP32, HEADS, ROWS, COLUMNS);
    check(mfa_forward(context, &desc), context);

    error = relative_rmse(o, expected, query_count);
    printf("%s keys and values: %.2fx the bytes of FP32; relative RMSE of keys %.4f, values %.4f, output %.4f\n", names[p],
           (double)(quantized_key.bytes + quantized_value.bytes) / (double)(2 * key_count * sizeof(float)), key_error,
           value_error, error);
    if (!(error < bounds[p])) ++failures;

    check(mfa_destroy_buffer(quantized_key.data), context);
    check(mfa_destroy_buffer(quantized_key.scales), context);
    check(mfa_destroy_buffer(quantized_value.data), context);
    check(mfa_destroy_buffer(quantized_value.scales), context);
  }

  check(mfa_destroy_buffer(query), context);
  check(mfa_destroy_buffer(key), context);
  check(mfa_destroy_buffer(value), context);
  check(mfa_destroy_buffer(output), context);
  check(mfa_destroy_context(context), NULL);
  free(expected);
  free(o);
  free(v);
  free(k);
  free(q);
  return failures;
}
