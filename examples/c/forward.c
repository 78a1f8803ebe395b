/* Causal attention on FP32 arrays that stay where they are, checked against the plain formula. */
#include "plain.h"

enum { BATCH = 1, HEADS = 4, ROWS = 300, COLUMNS = 64 };

int main(void) {
  const size_t head = (size_t)ROWS * COLUMNS;
  const size_t count = (size_t)BATCH * HEADS * head;
  const float scale = 1.0f / sqrtf((float)COLUMNS);
  float *q = floats(count), *k = floats(count), *v = floats(count), *o = floats(count);
  double *expected, worst = 0.0, seconds = 0.0;
  void *context = NULL, *query = NULL, *key = NULL, *value = NULL, *output = NULL;
  char device[128];
  size_t i;

  fill(q, count, 1);
  fill(k, count, 2);
  fill(v, count, 3);

  check(mfa_create_context(&context), NULL);
  check(mfa_device_name(0, device, sizeof device, NULL), context);
  check(mfa_buffer_from_ptr(context, q, count * sizeof *q, &query), context);
  check(mfa_buffer_from_ptr(context, k, count * sizeof *k, &key), context);
  check(mfa_buffer_from_ptr(context, v, count * sizeof *v, &value), context);
  check(mfa_buffer_from_ptr(context, o, count * sizeof *o, &output), context);

  check(mfa_attention_forward(context, query, key, value, output, BATCH, ROWS, ROWS, HEADS, COLUMNS, scale, true,
                              MFA_PRECISION_FP32, MFA_PRECISION_FP32, MFA_PRECISION_FP32, false, false, false, false),
        context);
  check(mfa_get_latency(context, &seconds), context);

  expected = (double*)malloc(head * sizeof *expected);
  if (expected == NULL) {
    fprintf(stderr, "no memory for the expected output\n");
    return 1;
  }
  for (i = 0; i < count; i += head) {
    double error;
    plain_attention(q + i, k + i, v + i, expected, ROWS, ROWS, COLUMNS, scale, true);
    error = relative_rmse(o + i, expected, head);
    if (error > worst) worst = error;
  }
  printf("%s: %d heads of %d x %d in %.3f ms, relative RMSE of the worst head %.1e\n", device, HEADS, ROWS, COLUMNS,
         1e3 * seconds, worst);

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
  return worst < 1e-5 ? 0 : 1;
}
