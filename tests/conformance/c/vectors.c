#include "vectors.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 32 };

static void fail(const char* what, const char* found) {
  fprintf(stderr, "vectors: %s: %s\n", what, found);
  exit(2);
}

/* Signed numbers too: strtoull() wraps a minus sign to two's complement. */
static uint64_t integer(const char* word) { return strtoull(word, NULL, 10); }
static int small(const char* word) { return (int)(int64_t)integer(word); }

static int split(char* line, char** words) {
  int count = 0;
  for (char* word = strtok(line, " \n"); word != NULL && count < MAX_WORDS; word = strtok(NULL, " \n")) words[count++] = word;
  for (int i = count; i < MAX_WORDS; i++) words[i] = "";
  return count;
}

static void begin(vector_case* c, const char* folder, char** words) {
  memset(c, 0, sizeof *c);
  snprintf(c->name, sizeof c->name, "%s", words[1]);
  snprintf(c->call, sizeof c->call, "%s", words[2]);
  c->status = small(words[3]);
  c->cu_buffers[0] = c->cu_buffers[1] = -1;
  c->options.struct_size = sizeof c->options;

  char path[4096];
  size_t size = (size_t)integer(words[6]);
  snprintf(path, sizeof path, "%s/%s", folder, words[4]);
  FILE* file = fopen(path, "rb");
  c->bytes = malloc(size + 1);
  if (file == NULL || c->bytes == NULL || fseek(file, (long)integer(words[5]), SEEK_SET) != 0 ||
      fread(c->bytes, 1, size, file) != size)
    fail("cannot read", path);
  fclose(file);
}

static void read_tensor(vector_tensor* t, char** words) {
  snprintf(t->role, sizeof t->role, "%s", words[1]);
  t->buffer = small(words[2]);
  t->view.byte_offset = integer(words[3]);
  t->view.precision = small(words[4]);
  for (int i = 0; i < 4; i++) {
    t->view.shape[i] = integer(words[5 + i]);
    t->view.strides[i] = (int64_t)integer(words[9 + i]);
  }
  t->scale_buffer = t->zero_point_buffer = t->mean_buffer = -1;
}

static void read_quantization(vector_tensor* t, char** words) {
  mfa_quantization* q = &t->quantization;
  t->quantized = true;
  q->struct_size = sizeof *q;
  q->granularity = small(words[2]);
  q->block_rows = (uint32_t)integer(words[3]);
  q->group_size = (uint32_t)integer(words[4]);
  q->scale = strtof(words[5], NULL);
  q->zero_point = small(words[6]);
  t->scale_buffer = small(words[7]);
  q->scale_offset = integer(words[8]);
  q->scale_precision = small(words[9]);
  q->rotated = (uint32_t)integer(words[10]);
  t->zero_point_buffer = small(words[11]);
  q->zero_point_offset = integer(words[12]);
  q->zero_point_bytes = (uint32_t)integer(words[13]);
  for (int i = 0; i < 4; i++) q->scale_strides[i] = (int64_t)integer(words[14 + i]);
  t->mean_buffer = small(words[18]);
  q->mean_offset = integer(words[19]);
}

static void read_options(mfa_attention_options* o, char** words) {
  o->flags = (uint32_t)integer(words[1]);
  o->softmax_scale = strtof(words[2], NULL);
  o->softcap = strtof(words[3], NULL);
  o->alignment = small(words[4]);
  o->compute = small(words[5]);
  o->window_left = (int64_t)integer(words[6]);
  o->window_right = (int64_t)integer(words[7]);
}

static void read_varlen(vector_case* c, char** words) {
  c->options.sequence_count = (uint32_t)integer(words[1]);
  c->cu_buffers[0] = small(words[2]);
  c->options.cu_seqlens_q_offset = integer(words[3]);
  c->cu_buffers[1] = small(words[4]);
  c->options.cu_seqlens_k_offset = integer(words[5]);
}

static void read_expectation(vector_expectation* e, char** words) {
  if (strcmp(words[0], "expect") == 0) {
    e->kind = EXPECT_VALUES;
    snprintf(e->role, sizeof e->role, "%s", words[1]);
    e->offset = integer(words[2]);
    e->max = strtod(words[3], NULL);
    e->rms = strtod(words[4], NULL);
  } else if (strcmp(words[0], "same") == 0) {
    e->kind = EXPECT_BYTES;
    e->buffer = small(words[1]);
    e->offset = integer(words[2]);
  } else {
    e->kind = EXPECT_ERROR;
    for (int i = 0; i < 4; i++) e->report[i] = strtod(words[1 + i], NULL);
  }
}

static FILE* open_text(const char* folder, const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s.txt", folder, name);
  FILE* file = fopen(path, "r");
  if (file == NULL) fail("cannot read", path);
  return file;
}

void vector_open(vector_reader* reader, const char* folder) {
  reader->folder = folder;
  reader->manifest = open_text(folder, "manifest");
  reader->family = NULL;
}

void vector_close(vector_reader* reader) { fclose(reader->manifest); }

/* Opens the next family of the manifest. Returns 0 at its end. */
static int next_family(vector_reader* reader) {
  char line[1024], *words[MAX_WORDS];
  while (fgets(line, sizeof line, reader->manifest) != NULL) {
    if (line[0] == '#' || split(line, words) == 0) continue;
    if (strcmp(words[0], "mfa-vectors") == 0) {
      if (small(words[1]) != 2) fail("this runner reads version 2, the manifest is of version", words[1]);
    } else if (strcmp(words[0], "family") == 0) {
      reader->family = open_text(reader->folder, words[1]);
      return 1;
    } else {
      fail("expected a family, found", words[0]);
    }
  }
  return 0;
}

static int next_case(FILE* manifest, const char* folder, vector_case* c) {
  char line[1024], *words[MAX_WORDS];
  bool inside = false;
  while (fgets(line, sizeof line, manifest) != NULL) {
    if (line[0] == '#' || split(line, words) == 0) continue;
    const char* item = words[0];
    if (!inside && strcmp(item, "case") == 0) {
      begin(c, folder, words);
      inside = true;
    } else if (!inside) {
      fail("expected a case, found", item);
    } else if (c->buffer_count == MAX_ITEMS || c->tensor_count == MAX_ITEMS || c->expectation_count == MAX_ITEMS) {
      fail("too many items in case", c->name);
    } else if (strcmp(item, "data") == 0) {
      c->buffers[c->buffer_count++] = (vector_buffer){false, integer(words[2]), integer(words[3])};
    } else if (strcmp(item, "room") == 0) {
      c->buffers[c->buffer_count++] = (vector_buffer){true, 0, integer(words[2])};
    } else if (strcmp(item, "tensor") == 0) {
      read_tensor(&c->tensors[c->tensor_count++], words);
    } else if (strcmp(item, "quantization") == 0) {
      vector_tensor* tensor = vector_find(c, words[1]);
      if (tensor == NULL) fail("quantization of a tensor that is not there", words[1]);
      read_quantization(tensor, words);
    } else if (strcmp(item, "options") == 0) {
      read_options(&c->options, words);
    } else if (strcmp(item, "varlen") == 0) {
      read_varlen(c, words);
    } else if (strcmp(item, "flags") == 0) {
      c->flags = (uint32_t)integer(words[1]);
    } else if (strcmp(item, "expect") == 0 || strcmp(item, "same") == 0 || strcmp(item, "error") == 0) {
      read_expectation(&c->expectations[c->expectation_count++], words);
    } else if (strcmp(item, "end") == 0) {
      return 1;
    } else {
      fail("unknown item", item);
    }
  }
  if (inside) fail("the manifest ends inside case", c->name);
  return 0;
}

int vector_next(vector_reader* reader, vector_case* c) {
  for (;;) {
    if (reader->family == NULL && !next_family(reader)) return 0;
    if (next_case(reader->family, reader->folder, c)) return 1;
    fclose(reader->family);
    reader->family = NULL;
  }
}

void vector_free(vector_case* c) {
  free(c->bytes);
  c->bytes = NULL;
}

vector_tensor* vector_find(vector_case* c, const char* role) {
  for (int i = 0; i < c->tensor_count; i++)
    if (strcmp(c->tensors[i].role, role) == 0) return &c->tensors[i];
  return NULL;
}
