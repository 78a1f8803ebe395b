/* The functions of a driver that the tests need: those linked into the program, or those of a library loaded at run time. */
#ifndef DRIVER_H
#define DRIVER_H

#include "mfa.h"

#define DRIVER_FUNCTIONS(X)                 \
  X(mfa_get_version)                        \
  X(mfa_error_string)                       \
  X(mfa_last_error)                         \
  X(mfa_device_count)                       \
  X(mfa_device_name)                        \
  X(mfa_device_kind)                        \
  X(mfa_device_vendor)                      \
  X(mfa_device_backend)                     \
  X(mfa_device_registry_id)                 \
  X(mfa_create_context)                     \
  X(mfa_create_context_on)                  \
  X(mfa_destroy_context)                    \
  X(mfa_set_num_threads)                    \
  X(mfa_get_num_threads)                    \
  X(mfa_get_latency)                        \
  X(mfa_create_buffer)                      \
  X(mfa_buffer_from_ptr)                    \
  X(mfa_buffer_contents)                    \
  X(mfa_buffer_size)                        \
  X(mfa_destroy_buffer)                     \
  X(mfa_quantize)                           \
  X(mfa_dequantize)                         \
  X(mfa_forward)                            \
  X(mfa_backward)                           \
  X(mfa_merge)                              \
  X(mfa_merge_backward)                     \
  X(mfa_workspace_size)                     \
  X(mfa_explain)                            \
  X(mfa_attention_forward)                  \
  X(mfa_attention_forward_quantized)        \
  X(mfa_attention_backward_query_quantized) \
  X(mfa_attention_backward_kv_quantized)

/* __typeof__, so that the header checks every call: a table written by hand could disagree with it. */
#define DRIVER_FIELD(name) __typeof__(name)* name;
typedef struct driver {
  DRIVER_FUNCTIONS(DRIVER_FIELD)
} driver;
#undef DRIVER_FIELD

/* Fills the table from the library at `path`; NULL: from the program itself. Returns NULL, or what is wrong. */
const char* driver_open(driver* table, const char* path);

#endif
