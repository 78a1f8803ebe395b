/*
 * Runs the conformance vectors, and bad input, on a driver, through mfa.h.
 *
 *   conformance [--require] [--shares] [--only TEXT] [--driver LIBRARY] VECTORS
 *
 * VECTORS is the folder of manifest.txt. The driver is LIBRARY, else the one that MFA_DRIVER names, else the one that is
 * linked. Checks of bad handles and structs come first. Each mfa call of a case
 * passes, fails (one line) or is skipped, where the driver answers MFA_ERROR_UNSUPPORTED (counted by reason). With
 * --require, or MFA_REQUIRE_ALL set, a skip is a failure. --only takes the cases whose names contain TEXT. --shares prints
 * every error as a share of the one allowed. MFA_RESULTS, a folder, receives what the driver returned, for tests/cross. The exit
 * status is 0 if nothing failed.
 */
#include <stdlib.h>
#include <string.h>

#include "bad_input.h"
#include "driver.h"
#include "guarded.h"
#include "runner.h"

static driver api;
static void* context;

static const char* message(void) { return api.mfa_last_error(context); }

static void must(live_case* live, int32_t status, const char* what) {
  if (status == MFA_SUCCESS) return;
  fprintf(stderr, "%s: %s failed with status %d: %s\n", live->c->name, what, (int)status, message());
  exit(2);
}

/* Inputs, and every other room, are wrapped; the rest of the rooms are the driver's own memory. */
static bool wrapped(const live_case* live, int i) { return !live->c->buffers[i].room || i % 2 == 0; }

/* A refused call must be refused for the reason at hand, not because a buffer that is a byte too short begins at an odd
 * address; operands of a call that computes end right before the page. */
static uint64_t alignment(const live_case* live) { return live->c->status != MFA_SUCCESS ? 8 : 1; }

static void create_buffers(live_case* live) {
  for (int i = 0; i < live->c->buffer_count; i++) {
    const vector_buffer* buffer = &live->c->buffers[i];
    live_buffer* out = &live->buffers[i];
    if (wrapped(live, i)) {
      out->bytes = guarded_create(buffer->size, alignment(live));
      must(live, api.mfa_buffer_from_ptr(context, out->bytes, buffer->size, &out->handle), "mfa_buffer_from_ptr");
    } else {
      void* contents = NULL;
      must(live, api.mfa_create_buffer(context, buffer->size, &out->handle), "mfa_create_buffer");
      must(live, api.mfa_buffer_contents(out->handle, &contents), "mfa_buffer_contents");
      out->bytes = contents;
    }
    if (buffer->size == 0) continue;
    if (buffer->room)
      memset(out->bytes, 0xFF, buffer->size);
    else
      memcpy(out->bytes, live->c->bytes + buffer->offset, buffer->size);
  }
}

static void destroy_buffers(live_case* live) {
  for (int i = 0; i < live->c->buffer_count; i++) {
    must(live, api.mfa_destroy_buffer(live->buffers[i].handle), "mfa_destroy_buffer");
    if (wrapped(live, i)) guarded_destroy(live->buffers[i].bytes, live->c->buffers[i].size, alignment(live));
  }
}

static void* handle(const live_case* live, int buffer) { return buffer < 0 ? NULL : live->buffers[buffer].handle; }

/* The descriptor of a role: absent if the case has no such tensor. */
static mfa_tensor tensor(live_case* live, const char* role) {
  vector_tensor* found = vector_find(live->c, role);
  mfa_tensor none = {0};
  if (found == NULL) return none;
  mfa_tensor view = found->view;
  view.buffer = handle(live, found->buffer);
  if (found->quantized) {
    found->quantization.scale_buffer = handle(live, found->scale_buffer);
    found->quantization.zero_point_buffer = handle(live, found->zero_point_buffer);
    found->quantization.mean_buffer = handle(live, found->mean_buffer);
    view.quantization = &found->quantization;
  }
  return view;
}

static void* whole(live_case* live, const char* role) { return tensor(live, role).buffer; }

static mfa_attention_options options(live_case* live) {
  mfa_attention_options result = live->c->options;
  result.mask = tensor(live, "mask");
  result.alibi_slopes = tensor(live, "alibi_slopes");
  result.sinks = tensor(live, "sinks");
  result.cu_seqlens_q = handle(live, live->c->cu_buffers[0]);
  result.cu_seqlens_k = handle(live, live->c->cu_buffers[1]);
  return result;
}

static int32_t call_forward(live_case* live) {
  mfa_attention_options o = options(live);
  mfa_forward_desc desc = {.struct_size = sizeof desc, .options = &o};
  desc.query = tensor(live, "query");
  desc.key = tensor(live, "key");
  desc.value = tensor(live, "value");
  desc.output = tensor(live, "output");
  desc.logsumexp = tensor(live, "logsumexp");
  return api.mfa_forward(context, &desc);
}

static int32_t call_backward(live_case* live) {
  mfa_attention_options o = options(live);
  mfa_backward_desc desc = {.struct_size = sizeof desc, .flags = live->c->flags, .options = &o};
  desc.query = tensor(live, "query");
  desc.key = tensor(live, "key");
  desc.value = tensor(live, "value");
  desc.output = tensor(live, "given_output");
  desc.grad_output = tensor(live, "grad_output");
  desc.logsumexp = tensor(live, "given_logsumexp");
  desc.d_values = tensor(live, "d_values");
  desc.grad_query = tensor(live, "grad_query");
  desc.grad_key = tensor(live, "grad_key");
  desc.grad_value = tensor(live, "grad_value");
  desc.grad_mask = tensor(live, "grad_mask");
  desc.grad_sinks = tensor(live, "grad_sinks");
  return api.mfa_backward(context, &desc);
}

static int32_t call_quantize(live_case* live) {
  mfa_quantize_desc desc = {.struct_size = sizeof desc, .flags = live->c->flags, .error = &live->report};
  desc.source = tensor(live, "source");
  desc.destination = tensor(live, "destination");
  return api.mfa_quantize(context, &desc);
}

static int32_t call_dequantize(live_case* live) {
  mfa_tensor source = tensor(live, "source"), destination = tensor(live, "destination");
  return api.mfa_dequantize(context, &source, &destination);
}

/* The arguments of the fixed signatures, and their buffers. */
typedef struct fixed {
  uint32_t batch, rows_q, rows_k, heads;
  uint16_t columns;
  bool causal;
  mfa_tensor q, k, v, o;
  mfa_quantization none, *q_scale, *k_scale, *v_scale;
} fixed;

static bool transposed(const mfa_tensor* view) { return view->strides[3] != 1; }

static mfa_quantization* scale_of(live_case* live, const char* role, fixed* f) {
  vector_tensor* found = vector_find(live->c, role);
  return found != NULL && found->quantized ? &found->quantization : &f->none;
}

static void take_apart(live_case* live, fixed* f) {
  memset(f, 0, sizeof *f);
  f->q = tensor(live, "query");
  f->k = tensor(live, "key");
  f->v = tensor(live, "value");
  f->o = tensor(live, "output");
  f->batch = (uint32_t)f->q.shape[0];
  f->heads = (uint32_t)f->q.shape[1];
  f->rows_q = (uint32_t)f->q.shape[2];
  f->rows_k = (uint32_t)f->k.shape[2];
  f->columns = (uint16_t)f->q.shape[3];
  f->causal = (live->c->options.flags & MFA_OPTION_CAUSAL) != 0;
  f->q_scale = scale_of(live, "query", f);
  f->k_scale = scale_of(live, "key", f);
  f->v_scale = scale_of(live, "value", f);
}

static int32_t call_plain(live_case* live) {
  fixed f;
  take_apart(live, &f);
  return api.mfa_attention_forward(context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, f.batch, f.rows_q,
                                              f.rows_k, f.heads, f.columns, live->c->options.softmax_scale, f.causal,
                                              f.q.precision, f.k.precision, f.v.precision, transposed(&f.q), transposed(&f.k),
                                              transposed(&f.v), transposed(&f.o));
}

static int32_t call_training_forward(live_case* live) {
  fixed f;
  take_apart(live, &f);
  return api.mfa_attention_forward_quantized(
      context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, whole(live, "logsumexp"), f.batch, f.rows_q, f.rows_k,
      f.heads, f.columns, live->c->options.softmax_scale, f.causal, f.q.precision, f.k.precision, f.v.precision,
      f.q_scale->scale, f.q_scale->zero_point, f.k_scale->scale, f.k_scale->zero_point, f.v_scale->scale,
      f.v_scale->zero_point, transposed(&f.q), transposed(&f.k), transposed(&f.v), transposed(&f.o));
}

static int32_t call_training_backward(live_case* live) {
  fixed f;
  take_apart(live, &f);
  int32_t status = api.mfa_attention_backward_query_quantized(
      context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
      whole(live, "grad_query"), whole(live, "d_values"), f.batch, f.rows_q, f.rows_k, f.heads, f.columns, f.q_scale->scale,
      f.q_scale->zero_point);
  if (status != MFA_SUCCESS) return status;
  return api.mfa_attention_backward_kv_quantized(
      context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
      whole(live, "d_values"), whole(live, "grad_key"), whole(live, "grad_value"), f.batch, f.rows_q, f.rows_k, f.heads,
      f.columns, f.q_scale->scale, f.q_scale->zero_point, f.k_scale->scale, f.k_scale->zero_point, f.v_scale->scale,
      f.v_scale->zero_point);
}

static const char* open_driver(const char* library) {
  const char* problem = driver_open(&api, library);
  if (problem != NULL) return problem;
  return api.mfa_create_context(&context) == MFA_SUCCESS ? NULL : api.mfa_last_error(NULL);
}

static void close_driver(void) { api.mfa_destroy_context(context); }

static const char* device(void) {
  static char name[256];
  return api.mfa_device_name(0, name, sizeof name, NULL) == MFA_SUCCESS ? name : "unknown";
}

static void bad_calls(int* passed, int* failed, int* skipped) { bad_input(&api, passed, failed, skipped); }

int main(int argc, char** argv) {
  static const binding c = {.open = open_driver,
                            .close = close_driver,
                            .device = device,
                            .message = message,
                            .create = create_buffers,
                            .destroy = destroy_buffers,
                            .forward = call_forward,
                            .backward = call_backward,
                            .quantize = call_quantize,
                            .dequantize = call_dequantize,
                            .plain = call_plain,
                            .training_forward = call_training_forward,
                            .training_backward = call_training_backward,
                            .bad_input = bad_calls};
  return runner_main(argc, argv, &c);
}
