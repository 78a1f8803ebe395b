/*
 * Runs the conformance vectors, and bad input, on a driver, through mfa.h.
 *
 *   conformance [--require] [--shares] [--only TEXT] [--driver LIBRARY] VECTORS
 *
 * VECTORS is the folder of manifest.txt. The driver is LIBRARY, else the one that MFA_DRIVER names, else the one that is
 * linked. Checks of bad handles and structs come first. Each mfa call of a case
 * passes, fails (one line) or is skipped, where the driver answers MFA_ERROR_UNSUPPORTED (counted by reason). With
 * --require, or MFA_REQUIRE_ALL set, a skip is a failure. --only takes the cases whose names contain TEXT. --shares prints
 * every error as a share of the one allowed. The exit status is 0 if nothing failed.
 */
#include <stdlib.h>
#include <string.h>

#include "bad_input.h"
#include "check.h"
#include "driver.h"
#include "guarded.h"
#include "vectors.h"

enum { MAX_REASONS = 16 };

typedef struct run_state {
  driver api;
  void* context;
  bool require, shares;
  double closest; /* the largest share of an allowed error that passed */
  char closest_name[128];
  int passed, failed, skipped;
  int reason_count;
  struct {
    char text[160];
    int count;
  } reasons[MAX_REASONS];
} run_state;

/* One case on the way through the driver. */
typedef struct live_case {
  run_state* run;
  vector_case* c;
  live_buffer buffers[MAX_ITEMS];
  mfa_quantization_error report;
} live_case;

typedef enum outcome { PASSED, FAILED, SKIPPED } outcome;

static void skip(run_state* run, const char* reason) {
  int i = 0;
  while (i < run->reason_count && strncmp(run->reasons[i].text, reason, sizeof run->reasons[i].text - 1) != 0) i++;
  if (i == MAX_REASONS) i--;
  if (i == run->reason_count) snprintf(run->reasons[run->reason_count++].text, sizeof run->reasons[i].text, "%s", reason);
  run->reasons[i].count++;
}

static void must(live_case* live, int32_t status, const char* what) {
  if (status == MFA_SUCCESS) return;
  fprintf(stderr, "%s: %s failed with status %d: %s\n", live->c->name, what, (int)status,
          live->run->api.mfa_last_error(live->run->context));
  exit(2);
}

/* Inputs, and every other room, are wrapped; the rest of the rooms are the driver's own memory. */
static bool wrapped(const live_case* live, int i) { return !live->c->buffers[i].room || i % 2 == 0; }

static void create_buffers(live_case* live) {
  const driver* api = &live->run->api;
  for (int i = 0; i < live->c->buffer_count; i++) {
    const vector_buffer* buffer = &live->c->buffers[i];
    live_buffer* out = &live->buffers[i];
    if (wrapped(live, i)) {
      out->bytes = guarded_create(buffer->size);
      must(live, api->mfa_buffer_from_ptr(live->run->context, out->bytes, buffer->size, &out->handle), "mfa_buffer_from_ptr");
    } else {
      void* contents = NULL;
      must(live, api->mfa_create_buffer(live->run->context, buffer->size, &out->handle), "mfa_create_buffer");
      must(live, api->mfa_buffer_contents(out->handle, &contents), "mfa_buffer_contents");
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
    must(live, live->run->api.mfa_destroy_buffer(live->buffers[i].handle), "mfa_destroy_buffer");
    if (wrapped(live, i)) guarded_destroy(live->buffers[i].bytes, live->c->buffers[i].size);
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
  return live->run->api.mfa_forward(live->run->context, &desc);
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
  return live->run->api.mfa_backward(live->run->context, &desc);
}

static int32_t call_quantize(live_case* live) {
  mfa_quantize_desc desc = {.struct_size = sizeof desc, .flags = live->c->flags, .error = &live->report};
  desc.source = tensor(live, "source");
  desc.destination = tensor(live, "destination");
  return live->run->api.mfa_quantize(live->run->context, &desc);
}

static int32_t call_dequantize(live_case* live) {
  mfa_tensor source = tensor(live, "source"), destination = tensor(live, "destination");
  return live->run->api.mfa_dequantize(live->run->context, &source, &destination);
}

/* What the fixed signatures take apart from buffers. */
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
  return live->run->api.mfa_attention_forward(live->run->context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, f.batch, f.rows_q,
                                              f.rows_k, f.heads, f.columns, live->c->options.softmax_scale, f.causal,
                                              f.q.precision, f.k.precision, f.v.precision, transposed(&f.q), transposed(&f.k),
                                              transposed(&f.v), transposed(&f.o));
}

static int32_t call_training_forward(live_case* live) {
  fixed f;
  take_apart(live, &f);
  return live->run->api.mfa_attention_forward_quantized(
      live->run->context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, whole(live, "logsumexp"), f.batch, f.rows_q, f.rows_k,
      f.heads, f.columns, live->c->options.softmax_scale, f.causal, f.q.precision, f.k.precision, f.v.precision,
      f.q_scale->scale, f.q_scale->zero_point, f.k_scale->scale, f.k_scale->zero_point, f.v_scale->scale,
      f.v_scale->zero_point, transposed(&f.q), transposed(&f.k), transposed(&f.v), transposed(&f.o));
}

static int32_t call_training_backward(live_case* live) {
  const driver* api = &live->run->api;
  fixed f;
  take_apart(live, &f);
  int32_t status = api->mfa_attention_backward_query_quantized(
      live->run->context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
      whole(live, "grad_query"), whole(live, "d_values"), f.batch, f.rows_q, f.rows_k, f.heads, f.columns, f.q_scale->scale,
      f.q_scale->zero_point);
  if (status != MFA_SUCCESS) return status;
  return api->mfa_attention_backward_kv_quantized(
      live->run->context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
      whole(live, "d_values"), whole(live, "grad_key"), whole(live, "grad_value"), f.batch, f.rows_q, f.rows_k, f.heads,
      f.columns, f.q_scale->scale, f.q_scale->zero_point, f.k_scale->scale, f.k_scale->zero_point, f.v_scale->scale,
      f.v_scale->zero_point);
}

static bool is_backward_result(const char* role) {
  return strncmp(role, "grad_", 5) == 0 || strcmp(role, "d_values") == 0;
}

static void note_share(run_state* run, const vector_case* c, const vector_expectation* e) {
  if (run->shares && e->share > 0) printf("%5.1f %% of the error allowed: %s %s\n", 100 * e->share, c->name, e->role);
  if (e->share > run->closest) {
    run->closest = e->share;
    snprintf(run->closest_name, sizeof run->closest_name, "%s %s", c->name, e->role);
  }
}

static bool check_expectations(live_case* live, bool backward) {
  vector_case* c = live->c;
  for (int i = 0; i < c->expectation_count; i++) {
    vector_expectation* e = &c->expectations[i];
    bool right = true;
    if (e->kind == EXPECT_BYTES) {
      right = check_bytes(c, e, live->buffers);
    } else if (e->kind == EXPECT_ERROR) {
      right = check_report(c, e, &live->report);
    } else if (is_backward_result(e->role) == backward) {
      right = check_values(c, vector_find(c, e->role), e, live->buffers);
    }
    if (!right) return false;
    note_share(live->run, c, e);
  }
  return true;
}

static outcome judge(live_case* live, int32_t status, bool backward) {
  run_state* run = live->run;
  if (status == MFA_ERROR_UNSUPPORTED) {
    skip(run, run->api.mfa_last_error(run->context));
    return SKIPPED;
  }
  if (status != live->c->status) {
    printf("%s: status %d (%s), expected %d\n", live->c->name, (int)status,
           status == MFA_SUCCESS ? "success" : run->api.mfa_last_error(run->context), live->c->status);
    return FAILED;
  }
  bool refused = live->c->status != MFA_SUCCESS;
  if (refused && run->api.mfa_last_error(run->context)[0] == '\0') {
    printf("%s: refused without a sentence\n", live->c->name);
    return FAILED;
  }
  bool right = check_untouched(live->c, live->buffers, refused) && (refused || check_expectations(live, backward));
  return right ? PASSED : FAILED;
}

static void count(live_case* live, int32_t status, bool backward) {
  switch (judge(live, status, backward)) {
    case PASSED: live->run->passed++; break;
    case FAILED: live->run->failed++; break;
    case SKIPPED: live->run->skipped++; break;
  }
}

static void run_case(run_state* run, vector_case* c) {
  live_case live = {.run = run, .c = c};
  bool has_output = vector_find(c, "output") != NULL, has_gradient = vector_find(c, "grad_output") != NULL;
  create_buffers(&live);
  if (strcmp(c->call, "quantize") == 0) {
    count(&live, call_quantize(&live), false);
  } else if (strcmp(c->call, "dequantize") == 0) {
    count(&live, call_dequantize(&live), false);
  } else if (strcmp(c->call, "plain") == 0) {
    count(&live, call_plain(&live), false);
  } else if (strcmp(c->call, "training") == 0) {
    count(&live, call_training_forward(&live), false);
    if (has_gradient) count(&live, call_training_backward(&live), true);
  } else {
    if (has_output) count(&live, call_forward(&live), false);
    if (has_gradient) count(&live, call_backward(&live), true);
  }
  destroy_buffers(&live);
}

int main(int argc, char** argv) {
  static run_state run;
  static vector_case c;
  const char *library = getenv("MFA_DRIVER"), *folder = NULL, *only = "";
  run.require = getenv("MFA_REQUIRE_ALL") != NULL;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--require") == 0) {
      run.require = true;
    } else if (strcmp(argv[i], "--shares") == 0) {
      run.shares = true;
    } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (strcmp(argv[i], "--driver") == 0 && i + 1 < argc) {
      library = argv[++i];
    } else {
      folder = argv[i];
    }
  }
  if (folder == NULL) {
    fprintf(stderr, "usage: conformance [--require] [--shares] [--only TEXT] [--driver LIBRARY] VECTORS\n");
    return 2;
  }
  if (library != NULL && library[0] == '\0') library = NULL;
  const char* problem = driver_open(&run.api, library);
  if (problem != NULL) {
    fprintf(stderr, "conformance: cannot use %s: %s\n", library, problem);
    return 2;
  }
  if (only[0] == '\0') bad_input(&run.api, &run.passed, &run.failed, &run.skipped);
  if (run.api.mfa_create_context(&run.context) != MFA_SUCCESS) {
    fprintf(stderr, "conformance: no context: %s\n", run.api.mfa_last_error(NULL));
    return 2;
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/manifest.txt", folder);
  FILE* manifest = fopen(path, "r");
  if (manifest == NULL) {
    fprintf(stderr, "conformance: cannot read %s\n", path);
    return 2;
  }
  while (vector_next(manifest, folder, &c)) {
    if (strstr(c.name, only) != NULL) run_case(&run, &c);
    vector_free(&c);
  }
  fclose(manifest);
  run.api.mfa_destroy_context(run.context);
  for (int i = 0; i < run.reason_count; i++) printf("skipped %d: %s\n", run.reasons[i].count, run.reasons[i].text);
  if (run.closest > 0) printf("closest to its bound: %s, %.0f %% of the error allowed\n", run.closest_name, 100 * run.closest);
  printf("%d passed, %d failed, %d skipped\n", run.passed, run.failed, run.skipped);
  return run.failed == 0 && run.passed > 0 && !(run.require && run.skipped > 0) ? 0 : 1;
}
