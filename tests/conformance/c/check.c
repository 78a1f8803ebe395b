#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t bits_of(int32_t precision) {
  switch (precision) {
    case MFA_PRECISION_FP32: return 32;
    case MFA_PRECISION_FP16:
    case MFA_PRECISION_BF16: return 16;
    case MFA_PRECISION_INT4: return 4;
    default: return 8;
  }
}

static double half(uint16_t h) {
  double sign = (h & 0x8000) ? -1.0 : 1.0;
  int exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return exponent ? sign * ldexp(1024 + mantissa, exponent - 25) : sign * ldexp(mantissa, -24);
}

static double element(const unsigned char* at, int32_t precision) {
  if (precision == MFA_PRECISION_FP32) {
    float x;
    memcpy(&x, at, sizeof x);
    return x;
  }
  uint16_t word;
  memcpy(&word, at, sizeof word);
  if (precision == MFA_PRECISION_FP16) return half(word);
  uint32_t wide = (uint32_t)word << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static uint64_t place(const mfa_tensor* view, const uint64_t index[4]) {
  uint64_t at = 0;
  for (int i = 0; i < 4; i++) at += index[i] * (uint64_t)view->strides[i];
  return view->byte_offset + at * bits_of(view->precision) / 8;
}

bool check_values(const vector_case* c, const vector_tensor* tensor, vector_expectation* e, const live_buffer* live) {
  const mfa_tensor* view = &tensor->view;
  const unsigned char* actual_bytes = live[tensor->buffer].bytes;
  const unsigned char* next = c->bytes + e->offset;
  uint64_t i[4];
  for (i[0] = 0; i[0] < view->shape[0]; i[0]++) {
    for (i[1] = 0; i[1] < view->shape[1]; i[1]++) {
      double squares = 0, worst = 0;
      uint64_t counted = 0;
      for (i[2] = 0; i[2] < view->shape[2]; i[2]++) {
        for (i[3] = 0; i[3] < view->shape[3]; i[3]++, next += sizeof(float)) {
          double expected = element(next, MFA_PRECISION_FP32);
          double actual = element(actual_bytes + place(view, i), view->precision);
          double error = fabs(actual - expected);
          bool right = isnan(expected) ? isnan(actual) : isinf(expected) ? actual == expected : error <= e->max;
          if (!right) {
            printf("%s: %s[%d,%d,%d,%d] is %.9g, expected %.9g, error allowed %.3g\n", c->name, e->role, (int)i[0], (int)i[1],
                   (int)i[2], (int)i[3], actual, expected, e->max);
            return false;
          }
          if (isfinite(expected)) {
            squares += error * error;
            worst = error > worst ? error : worst;
            counted++;
          }
        }
      }
      double rms = counted ? sqrt(squares / (double)counted) : 0.0;
      if (worst > e->share * e->max) e->share = worst / e->max;
      if (rms > e->share * e->rms) e->share = rms / e->rms;
      if (!(rms <= e->rms)) {
        printf("%s: %s of head [%d,%d] has an RMS error of %.3g (worst %.3g), allowed %.3g\n", c->name, e->role, (int)i[0],
               (int)i[1], rms, worst, e->rms);
        return false;
      }
    }
  }
  return true;
}

bool check_bytes(const vector_case* c, const vector_expectation* e, const live_buffer* live) {
  const unsigned char* actual = live[e->buffer].bytes;
  for (uint64_t i = 0; i < c->buffers[e->buffer].size; i++) {
    if (actual[i] != c->bytes[e->offset + i]) {
      printf("%s: byte %llu of buffer %d is 0x%02x, expected 0x%02x\n", c->name, (unsigned long long)i, e->buffer, actual[i],
             c->bytes[e->offset + i]);
      return false;
    }
  }
  return true;
}

bool check_report(const vector_case* c, const vector_expectation* e, const mfa_quantization_error* report) {
  static const char* const names[4] = {"rmse", "relative_rmse", "max_abs", "worst_row_rmse"};
  const double found[4] = {report->rmse, report->relative_rmse, report->max_abs, report->worst_row_rmse};
  for (int i = 0; i < 4; i++) {
    if (!(fabs(found[i] - e->report[i]) <= 1e-4 * fabs(e->report[i]))) {
      printf("%s: reported %s is %.9g, expected %.9g\n", c->name, names[i], found[i], e->report[i]);
      return false;
    }
  }
  return true;
}

/* Marks the bytes of a buffer that belong to elements of a tensor. */
static void mark(const mfa_tensor* view, unsigned char* own, uint64_t size) {
  uint64_t width = bits_of(view->precision) < 8 ? 1 : bits_of(view->precision) / 8, i[4];
  for (i[0] = 0; i[0] < view->shape[0]; i[0]++)
    for (i[1] = 0; i[1] < view->shape[1]; i[1]++)
      for (i[2] = 0; i[2] < view->shape[2]; i[2]++)
        for (i[3] = 0; i[3] < view->shape[3]; i[3]++) {
          uint64_t at = place(view, i);
          for (uint64_t k = 0; k < width && at + k < size; k++) own[at + k] = 1;
        }
}

bool check_untouched(const vector_case* c, const live_buffer* live, bool refused) {
  for (int b = 0; b < c->buffer_count; b++) {
    const vector_buffer* buffer = &c->buffers[b];
    bool exact = false; /* a `same` expectation covers the gaps as well */
    for (int i = 0; i < c->expectation_count; i++)
      exact |= c->expectations[i].kind == EXPECT_BYTES && c->expectations[i].buffer == b;
    if (buffer->room && exact && !refused) continue;
    unsigned char* own = calloc(buffer->size + 1, 1);
    if (own == NULL) abort();
    if (buffer->room && !refused)
      for (int t = 0; t < c->tensor_count; t++)
        if (c->tensors[t].buffer == b) mark(&c->tensors[t].view, own, buffer->size);
    for (uint64_t i = 0; i < buffer->size; i++) {
      unsigned char before = buffer->room ? 0xFF : c->bytes[buffer->offset + i];
      if (!own[i] && live[b].bytes[i] != before) {
        printf("%s: byte %llu of %s buffer %d was changed%s\n", c->name, (unsigned long long)i,
               buffer->room ? "output" : "input", b, refused ? " by a call that failed" : "; it belongs to no tensor");
        free(own);
        return false;
      }
    }
    free(own);
  }
  return true;
}
