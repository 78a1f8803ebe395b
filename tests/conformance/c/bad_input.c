#include "bad_input.h"

#include <stdio.h>
#include <string.h>

typedef struct tally {
  const driver* api;
  int passed, failed, skipped;
} tally;

/* A status, and with a refusal a message. */
static void expect(tally* t, const char* what, int32_t found, int32_t expected) {
  const char* message = t->api->mfa_last_error(NULL);
  bool silent = expected != MFA_SUCCESS && (message == NULL || message[0] == '\0');
  if (found == expected && !silent) {
    t->passed++;
    return;
  }
  t->failed++;
  printf("bad input: %s: status %d, expected %d%s%s\n", what, (int)found, (int)expected, silent ? ", without a message" : ": ",
         silent ? "" : message);
}

static void check(tally* t, const char* what, bool right) {
  if (right) {
    t->passed++;
    return;
  }
  t->failed++;
  printf("bad input: %s\n", what);
}

/* One head of two rows of two FP32 columns, all in buffers of exactly that size. */
typedef struct small_call {
  void *context, *query, *key, *value, *output;
  mfa_forward_desc forward;
} small_call;

static mfa_tensor view(void* buffer) {
  mfa_tensor tensor = {.buffer = buffer, .precision = MFA_PRECISION_FP32, .shape = {1, 1, 2, 2}, .strides = {4, 4, 2, 1}};
  return tensor;
}

static void small_create(tally* t, small_call* c) {
  const driver* api = t->api;
  memset(c, 0, sizeof *c);
  expect(t, "mfa_create_context", api->mfa_create_context(&c->context), MFA_SUCCESS);
  void** buffers[4] = {&c->query, &c->key, &c->value, &c->output};
  for (int i = 0; i < 4; i++) expect(t, "mfa_create_buffer", api->mfa_create_buffer(c->context, 16, buffers[i]), MFA_SUCCESS);
  c->forward.struct_size = sizeof c->forward;
  c->forward.query = view(c->query);
  c->forward.key = view(c->key);
  c->forward.value = view(c->value);
  c->forward.output = view(c->output);
}

static void small_destroy(tally* t, small_call* c) {
  void* buffers[4] = {c->query, c->key, c->value, c->output};
  for (int i = 0; i < 4; i++) expect(t, "mfa_destroy_buffer", t->api->mfa_destroy_buffer(buffers[i]), MFA_SUCCESS);
  expect(t, "mfa_destroy_context", t->api->mfa_destroy_context(c->context), MFA_SUCCESS);
}

static void null_pointers(tally* t, small_call* c) {
  const driver* api = t->api;
  void* buffer = NULL;
  uint64_t bytes = 0;
  uint32_t number = 0;
  int32_t kind = 77;
  uint64_t registry_id = 77;
  double seconds = 0;
  expect(t, "mfa_get_version of nothing", api->mfa_get_version(NULL, NULL, NULL), MFA_SUCCESS);
  expect(t, "mfa_device_count to NULL", api->mfa_device_count(NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_name to NULL with capacity", api->mfa_device_name(0, NULL, 8, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_name beyond the last", api->mfa_device_name(1000, NULL, 0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_kind to NULL", api->mfa_device_kind(0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_kind beyond the last", api->mfa_device_kind(1000, &kind), MFA_ERROR_INVALID_ARGUMENT);
  check(t, "a refused mfa_device_kind has written", kind == 77);
  expect(t, "mfa_device_vendor to NULL with capacity", api->mfa_device_vendor(0, NULL, 8, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_vendor beyond the last", api->mfa_device_vendor(1000, NULL, 0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_backend to NULL with capacity", api->mfa_device_backend(0, NULL, 8, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_backend beyond the last", api->mfa_device_backend(1000, NULL, 0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_registry_id to NULL", api->mfa_device_registry_id(0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_device_registry_id beyond the last", api->mfa_device_registry_id(1000, &registry_id), MFA_ERROR_INVALID_ARGUMENT);
  check(t, "a refused mfa_device_registry_id has written", registry_id == 77);
  expect(t, "mfa_create_context to NULL", api->mfa_create_context(NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_create_context_on beyond the last", api->mfa_create_context_on(1000, &buffer), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_destroy_context(NULL)", api->mfa_destroy_context(NULL), MFA_SUCCESS);
  expect(t, "mfa_set_num_threads on NULL", api->mfa_set_num_threads(NULL, 1), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_get_num_threads on NULL", api->mfa_get_num_threads(NULL, &number), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_get_num_threads to NULL", api->mfa_get_num_threads(c->context, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_get_latency on NULL", api->mfa_get_latency(NULL, &seconds), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_get_latency to NULL", api->mfa_get_latency(c->context, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_create_buffer on NULL", api->mfa_create_buffer(NULL, 8, &buffer), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_create_buffer to NULL", api->mfa_create_buffer(c->context, 8, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_buffer_from_ptr of NULL", api->mfa_buffer_from_ptr(c->context, NULL, 8, &buffer), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_buffer_contents of NULL", api->mfa_buffer_contents(NULL, &buffer), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_buffer_contents to NULL", api->mfa_buffer_contents(c->query, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_buffer_size of NULL", api->mfa_buffer_size(NULL, &bytes), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_buffer_size to NULL", api->mfa_buffer_size(c->query, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_destroy_buffer(NULL)", api->mfa_destroy_buffer(NULL), MFA_SUCCESS);
  expect(t, "mfa_forward on NULL", api->mfa_forward(NULL, &c->forward), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_forward of NULL", api->mfa_forward(c->context, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_backward on NULL", api->mfa_backward(NULL, NULL), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_quantize on NULL", api->mfa_quantize(NULL, NULL), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_quantize of NULL", api->mfa_quantize(c->context, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_dequantize on NULL", api->mfa_dequantize(NULL, NULL, NULL), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_dequantize of NULL", api->mfa_dequantize(c->context, NULL, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_workspace_size of neither", api->mfa_workspace_size(c->context, NULL, NULL, &bytes), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_workspace_size to NULL", api->mfa_workspace_size(c->context, &c->forward, NULL, NULL), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_explain of neither", api->mfa_explain(c->context, NULL, NULL, NULL, 0, NULL), MFA_ERROR_INVALID_ARGUMENT);
  check(t, "mfa_error_string(77) is not \"unknown status\"", strcmp(api->mfa_error_string(77), "unknown status") == 0);
  check(t, "mfa_error_string(0) is not \"success\"", strcmp(api->mfa_error_string(0), "success") == 0);
}

/* Every device has a name and a backend that is cut to what there is room for, a kind and a vendor. */
static void devices(tally* t) {
  const driver* api = t->api;
  uint32_t count = 0;
  expect(t, "mfa_device_count", api->mfa_device_count(&count), MFA_SUCCESS);
  for (uint32_t i = 0; i < count; i++) {
    char backend[32] = "", cut[2] = "??", vendor[256];
    size_t length = 0, vendor_length = 0;
    int32_t kind = 0;
    expect(t, "mfa_device_kind", api->mfa_device_kind(i, &kind), MFA_SUCCESS);
    check(t, "a device is of no kind of the header", kind >= MFA_DEVICE_CPU && kind <= MFA_DEVICE_ACCELERATOR);
    expect(t, "mfa_device_backend", api->mfa_device_backend(i, backend, sizeof backend, &length), MFA_SUCCESS);
    check(t, "a backend is neither cpu nor metal", strcmp(backend, "cpu") == 0 || strcmp(backend, "metal") == 0);
    check(t, "the length of a backend is not that of its text", length == strlen(backend));
    uint64_t registry_id = 77;
    const int has_id = strcmp(backend, "metal") == 0;
    expect(t, "mfa_device_registry_id", api->mfa_device_registry_id(i, &registry_id), has_id ? MFA_SUCCESS : MFA_ERROR_UNSUPPORTED);
    check(t, "a registry id is not written, or in spite of a refusal", (registry_id == 77) != has_id);
    check(t, "the processor is not of kind CPU", strcmp(backend, "cpu") != 0 || kind == MFA_DEVICE_CPU);
    expect(t, "mfa_device_backend, cut", api->mfa_device_backend(i, cut, sizeof cut, NULL), MFA_SUCCESS);
    check(t, "a backend is not cut to its capacity", cut[0] == backend[0] && cut[1] == '\0');
    expect(t, "the length of a vendor", api->mfa_device_vendor(i, NULL, 0, &vendor_length), MFA_SUCCESS);
    expect(t, "mfa_device_vendor", api->mfa_device_vendor(i, vendor, sizeof vendor, NULL), MFA_SUCCESS);
    check(t, "the length of a vendor is not that of its text", vendor_length == strlen(vendor));
  }
}

static void wrong_handles(tally* t, small_call* c) {
  const driver* api = t->api;
  mfa_forward_desc desc = c->forward;
  void *gone_context = NULL, *gone = NULL, *contents = NULL;
  int on_stack = 0;
  expect(t, "a context to destroy", api->mfa_create_context(&gone_context), MFA_SUCCESS);
  expect(t, "a buffer to destroy", api->mfa_create_buffer(gone_context, 16, &gone), MFA_SUCCESS);
  expect(t, "destroying the context", api->mfa_destroy_context(gone_context), MFA_SUCCESS);
  expect(t, "a buffer outlives its context", api->mfa_buffer_contents(gone, &contents), MFA_SUCCESS);
  expect(t, "destroying the buffer", api->mfa_destroy_buffer(gone), MFA_SUCCESS);
  expect(t, "destroying a context twice", api->mfa_destroy_context(gone_context), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "destroying a buffer twice", api->mfa_destroy_buffer(gone), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "mfa_forward on a destroyed context", api->mfa_forward(gone_context, &desc), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_forward on a buffer", api->mfa_forward(c->query, &desc), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_forward on a stranger", api->mfa_forward(&on_stack, &desc), MFA_ERROR_INVALID_CONTEXT);
  expect(t, "mfa_buffer_contents of a context", api->mfa_buffer_contents(c->context, &contents), MFA_ERROR_INVALID_ARGUMENT);
  desc.key.buffer = gone;
  expect(t, "mfa_forward with a destroyed key", api->mfa_forward(c->context, &desc), MFA_ERROR_INVALID_ARGUMENT);
  desc.key.buffer = c->context;
  expect(t, "mfa_forward with a context for a key", api->mfa_forward(c->context, &desc), MFA_ERROR_INVALID_ARGUMENT);
  desc.key.buffer = &on_stack;
  expect(t, "mfa_forward with a stranger for a key", api->mfa_forward(c->context, &desc), MFA_ERROR_INVALID_ARGUMENT);
  desc = c->forward;
  desc.output.buffer = NULL;
  expect(t, "mfa_forward without output", api->mfa_forward(c->context, &desc), MFA_ERROR_INVALID_ARGUMENT);
  check(t, "mfa_last_error of a destroyed context is empty", api->mfa_last_error(gone_context)[0] != '\0');
}

/* A struct as a newer program would have it: longer than this library's. */
typedef struct newer_desc {
  mfa_forward_desc desc;
  uint64_t tail[2];
} newer_desc;

static void struct_sizes(tally* t, small_call* c) {
  const driver* api = t->api;
  newer_desc newer = {.desc = c->forward};
  newer.desc.struct_size = sizeof newer;
  expect(t, "a longer struct whose tail is zero", api->mfa_forward(c->context, &newer.desc), MFA_SUCCESS);
  newer.tail[1] = 1;
  expect(t, "a longer struct whose tail is not zero", api->mfa_forward(c->context, &newer.desc), MFA_ERROR_UNSUPPORTED);
  mfa_forward_desc older = c->forward;
  older.struct_size = offsetof(mfa_forward_desc, options);
  expect(t, "a shorter struct, without options", api->mfa_forward(c->context, &older), MFA_SUCCESS);
  older.struct_size = 0;
  expect(t, "struct_size 0", api->mfa_forward(c->context, &older), MFA_ERROR_INVALID_ARGUMENT);
  older = c->forward;
  older.reserved = 1;
  expect(t, "reserved 1", api->mfa_forward(c->context, &older), MFA_ERROR_INVALID_ARGUMENT);
  mfa_attention_options options = {.struct_size = 8};
  older = c->forward;
  older.options = &options;
  expect(t, "options of 8 bytes", api->mfa_forward(c->context, &older), MFA_SUCCESS);
  options.struct_size = 4;
  expect(t, "options that end inside a field", api->mfa_forward(c->context, &older), MFA_ERROR_INVALID_ARGUMENT);
}

static int32_t fixed(tally* t, small_call* c, uint32_t rows, uint32_t heads, uint16_t columns, float scale, int32_t precision) {
  return t->api->mfa_attention_forward(c->context, c->query, c->key, c->value, c->output, 1, rows, rows, heads, columns, scale,
                                       false, precision, precision, precision, false, false, false, false);
}

static void fixed_signatures(tally* t, small_call* c) {
  const uint32_t most = UINT32_MAX;
  expect(t, "a plain call", fixed(t, c, 2, 1, 2, 1.0f, MFA_PRECISION_FP32), MFA_SUCCESS);
  expect(t, "INT8 without scales", fixed(t, c, 2, 1, 2, 1.0f, MFA_PRECISION_INT8), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "precision 77", fixed(t, c, 2, 1, 2, 1.0f, 77), MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "head dimension 0", fixed(t, c, 2, 1, 0, 1.0f, MFA_PRECISION_FP32), MFA_ERROR_INVALID_DIMENSIONS);
  expect(t, "one row too many", fixed(t, c, 3, 1, 2, 1.0f, MFA_PRECISION_FP32), MFA_ERROR_INVALID_ARGUMENT);
  check(t, "buffers of 16 bytes were accepted for 2^32 - 1 rows and heads", fixed(t, c, most, most, 512, 1.0f, MFA_PRECISION_FP32) != MFA_SUCCESS);
}

static void training_without_forward(tally* t, small_call* c) {
  const driver* api = t->api;
  int32_t query = api->mfa_attention_backward_query_quantized(c->context, c->query, c->key, c->value, c->output, c->output,
                                                              c->output, c->output, 1, 2, 2, 1, 2, 1.0f, 0);
  int32_t key = api->mfa_attention_backward_kv_quantized(c->context, c->query, c->key, c->value, c->output, c->output, c->output,
                                                         c->output, c->output, 1, 2, 2, 1, 2, 1.0f, 0, 1.0f, 0, 1.0f, 0);
  if (query == MFA_ERROR_UNSUPPORTED && key == MFA_ERROR_UNSUPPORTED) {
    t->skipped += 2;
    return;
  }
  expect(t, "backward of the query without a forward", query, MFA_ERROR_INVALID_ARGUMENT);
  expect(t, "backward of key and value without a forward", key, MFA_ERROR_INVALID_ARGUMENT);
}

/* Everything that was refused above has left the output as the last success wrote it: zeros. */
static void output_is_zero(tally* t, small_call* c) {
  void* contents = NULL;
  static const unsigned char zeros[16];
  expect(t, "mfa_buffer_contents", t->api->mfa_buffer_contents(c->output, &contents), MFA_SUCCESS);
  check(t, "a refused call has changed the output", contents != NULL && memcmp(contents, zeros, sizeof zeros) == 0);
}

void bad_input(const driver* api, int* passed, int* failed, int* skipped) {
  tally t = {.api = api};
  small_call c;
  small_create(&t, &c);
  training_without_forward(&t, &c);
  null_pointers(&t, &c);
  devices(&t);
  wrong_handles(&t, &c);
  struct_sizes(&t, &c);
  fixed_signatures(&t, &c);
  output_is_zero(&t, &c);
  small_destroy(&t, &c);
  *passed += t.passed;
  *failed += t.failed;
  *skipped += t.skipped;
}
