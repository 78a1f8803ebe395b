#include "results.h"

#include <stdlib.h>
#include <string.h>

struct results {
  FILE *index, *bytes;
  uint64_t offset;
};

static FILE* create(const char* folder, const char* name, const char* mode) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE* file = fopen(path, mode);
  if (file == NULL) {
    fprintf(stderr, "results: cannot write %s\n", path);
    exit(2);
  }
  return file;
}

results* results_open(const char* folder, const char* device) {
  static results opened;
  opened.index = create(folder, "results.txt", "w");
  opened.bytes = create(folder, "results.bin", "wb");
  opened.offset = 0;
  fprintf(opened.index, "mfa-results 1\ndevice %s\n", device);
  return &opened;
}

/* An array in memory: of views, and of the parameters of a quantization. */
typedef struct array {
  const unsigned char* first;
  uint64_t shape[4];
  uint64_t strides[4]; /* bytes */
  uint64_t item;       /* bytes; an INT4 item is a pair */
} array;

/* Its items in the order of its shape, without gaps. */
static void add(results* to, const char* name, const array* a) {
  uint64_t i[4], size = a->item;
  for (int axis = 0; axis < 4; axis++) size *= a->shape[axis];
  for (i[0] = 0; i[0] < a->shape[0]; i[0]++)
    for (i[1] = 0; i[1] < a->shape[1]; i[1]++)
      for (i[2] = 0; i[2] < a->shape[2]; i[2]++)
        for (i[3] = 0; i[3] < a->shape[3]; i[3]++) {
          uint64_t at = 0;
          for (int axis = 0; axis < 4; axis++) at += i[axis] * a->strides[axis];
          fwrite(a->first + at, 1, a->item, to->bytes);
        }
  fprintf(to->index, "array %s %llu %llu\n", name, (unsigned long long)to->offset, (unsigned long long)size);
  to->offset += size;
}

static uint64_t item_size(int32_t precision) {
  switch (precision) {
    case MFA_PRECISION_FP32: return 4;
    case MFA_PRECISION_FP16:
    case MFA_PRECISION_BF16: return 2;
    default: return 1;
  }
}

static void add_tensor(results* to, live_case* live, const char* role) {
  const vector_tensor* tensor = vector_find(live->c, role);
  if (tensor == NULL || !live->c->buffers[tensor->buffer].room) return;
  array a = {.first = live->buffers[tensor->buffer].bytes + tensor->view.byte_offset,
             .item = item_size(tensor->view.precision)};
  const uint64_t pair = tensor->view.precision == MFA_PRECISION_INT4 ? 2 : 1;
  for (int axis = 0; axis < 4; axis++) {
    a.shape[axis] = tensor->view.shape[axis];
    a.strides[axis] = (uint64_t)tensor->view.strides[axis] * a.item / pair;
  }
  if (pair == 2) {
    /* The columns of INT4 have no gaps. */
    a.shape[3] /= pair;
    a.strides[3] = a.item;
  }
  add(to, role, &a);
}

/* The array of scales or of zero points: mfa.h, enum mfa_granularity. */
static void add_parameters(results* to, live_case* live, const char* name, const vector_tensor* of, int buffer, uint64_t offset,
                           uint64_t item) {
  if (buffer < 0 || !live->c->buffers[buffer].room) return;
  const mfa_quantization* q = &of->quantization;
  const uint64_t *shape = of->view.shape, group = q->group_size > 0 ? q->group_size : shape[3];
  const uint64_t blocks = q->block_rows > 0 ? (shape[2] + q->block_rows - 1) / q->block_rows : 0;
  array a = {.first = live->buffers[buffer].bytes + offset, .shape = {shape[0], shape[1], blocks, 1}, .item = item};
  if (q->granularity == MFA_GRANULARITY_TENSOR) {
    a.shape[0] = a.shape[1] = a.shape[2] = 1;
  } else if (q->granularity == MFA_GRANULARITY_ROW) {
    a.shape[2] = shape[2];
    a.shape[3] = (shape[3] + group - 1) / group;
  } else if (q->granularity == MFA_GRANULARITY_CHANNEL) {
    a.shape[3] = shape[3];
  }
  bool given = false;
  for (int axis = 0; axis < 4; axis++) given = given || q->scale_strides[axis] != 0;
  uint64_t packed = item;
  for (int axis = 3; axis >= 0; axis--) {
    a.strides[axis] = given ? (uint64_t)q->scale_strides[axis] * item : packed;
    packed *= a.shape[axis];
  }
  add(to, name, &a);
}

static void add_flat(results* to, const char* name, const void* bytes, uint64_t count, uint64_t item) {
  const array a = {.first = bytes, .shape = {1, 1, 1, count}, .strides = {0, 0, 0, item}, .item = item};
  add(to, name, &a);
}

static void add_quantization(results* to, live_case* live) {
  const vector_tensor* destination = vector_find(live->c, "destination");
  add_tensor(to, live, "destination");
  const mfa_quantization* q = &destination->quantization;
  add_parameters(to, live, "scales", destination, destination->scale_buffer, q->scale_offset, item_size(q->scale_precision));
  add_parameters(to, live, "zero_points", destination, destination->zero_point_buffer, q->zero_point_offset,
                 q->zero_point_bytes);
  const int mean = destination->mean_buffer;
  const uint64_t *shape = destination->view.shape, columns = shape[0] * shape[1] * shape[3];
  if (mean >= 0 && live->c->buffers[mean].room)
    add_flat(to, "mean", live->buffers[mean].bytes + q->mean_offset, columns, sizeof(float));
  add_flat(to, "report", &live->report, sizeof live->report / sizeof(double), sizeof(double));
}

void results_add(results* to, live_case* live, const char* call, int32_t status, const char* message) {
  static const char* const forward[] = {"output", "logsumexp", NULL};
  static const char* const backward[] = {"grad_query", "grad_key", "grad_value", "grad_mask", "grad_sinks", "d_values", NULL};
  static const char* const destination[] = {"destination", NULL};
  fprintf(to->index, "call %s %s %d\n", live->c->name, call, (int)status);
  if (status != MFA_SUCCESS) {
    fprintf(to->index, "message %s\n", message);
  } else if (strcmp(call, "quantize") == 0) {
    add_quantization(to, live);
  } else {
    const char* const* role = strcmp(call, "forward") == 0    ? forward
                              : strcmp(call, "backward") == 0 ? backward
                                                              : destination;
    for (; *role != NULL; role++) add_tensor(to, live, *role);
  }
}

void results_close(results* of) {
  fprintf(of->index, "end\n");
  if (fclose(of->index) != 0 || fclose(of->bytes) != 0) {
    fprintf(stderr, "results: cannot be written whole\n");
    exit(2);
  }
}
