/* Compares what a driver wrote with what a case expects. */
#ifndef CHECK_H
#define CHECK_H

#include "vectors.h"

/* A case's buffers as the driver sees them. */
typedef struct live_buffer {
  void* handle;
  unsigned char* bytes;
} live_buffer;

/* Each returns true, or prints `NAME: what is wrong` to stdout and returns false. */
bool check_values(const vector_case* c, const vector_tensor* tensor, vector_expectation* e, const live_buffer* live);
bool check_bytes(const vector_case* c, const vector_expectation* e, const live_buffer* live);
bool check_report(const vector_case* c, const vector_expectation* e, const mfa_quantization_error* report);

/* Inputs are as they were; rooms are 0xFF outside the tensors in them or, if `refused`, everywhere. */
bool check_untouched(const vector_case* c, const live_buffer* live, bool refused);

#endif
