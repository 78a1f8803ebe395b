/* The software device below the Swift API: buffers, libraries, pipelines, dispatches. */
#ifndef C_SOFTWARE_METAL_H
#define C_SOFTWARE_METAL_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { SM_BUFFER_COUNT = 31, SM_COST_COUNT = 12 };

typedef struct sm_buffer sm_buffer;
typedef struct sm_library sm_library;
typedef struct sm_pipeline sm_pipeline;

/* Memory between guard pages, zeroed, or the caller's own. */
sm_buffer *sm_buffer_create(uint64_t length);
sm_buffer *sm_buffer_wrap(void *memory, uint64_t length);
void sm_buffer_destroy(sm_buffer *);
void *sm_buffer_contents(const sm_buffer *);
uint64_t sm_page_size(void);

enum { SM_NOTE_COUNT = 8 };
typedef enum {
  SM_ALLOW_INLINE_AIR = 1,
  SM_FLUSH_SUBNORMALS = 2,
  SM_FUNCTION_ERRORS = 4,
  SM_PRECISE_FUNCTIONS = 8, /* functions without a namespace are those of `precise` */
  SM_AS_APPLE = 16          /* faults that a GPU passes over are */
} sm_library_flags;
/* mode: 0 fast, 1 counted, 2 checked. `macros`: NAME=VALUE strings. On failure NULL, and *error to be freed with
 * sm_free. version: __METAL_VERSION__. */
sm_library *sm_library_create(const char *source, const char *const *macros, size_t macro_count, int mode,
                              uint32_t flags, int version, char **error);
void sm_library_destroy(sm_library *);
int sm_library_mode(const sm_library *);
size_t sm_library_kernel_count(const sm_library *);
const char *sm_library_kernel_name(const sm_library *, size_t index);
size_t sm_library_constant_count(const sm_library *);
const char *sm_library_constant_name(const sm_library *, size_t index);
const char *sm_library_constant_type(const sm_library *, size_t index);
int sm_library_constant_index(const sm_library *, size_t index);
/* The kernel mentions the constant without asking first whether it is defined. */
int sm_library_constant_required(const sm_library *, const char *kernel, size_t index);
size_t sm_library_argument_count(const sm_library *, const char *kernel);
const char *sm_library_argument_name(const sm_library *, const char *kernel, size_t index);
const char *sm_library_argument_attribute(const sm_library *, const char *kernel, size_t index);
int sm_library_argument_index(const sm_library *, const char *kernel, size_t index);
int sm_library_argument_writable(const sm_library *, const char *kernel, size_t index);

typedef struct {
  uint32_t index, size;
  uint8_t value[32];
} sm_constant_value;
sm_pipeline *sm_pipeline_create(sm_library *, const char *kernel, const sm_constant_value *values, size_t count,
                                char **error);
void sm_pipeline_destroy(sm_pipeline *);
uint32_t sm_pipeline_static_length(const sm_pipeline *);
uint32_t sm_pipeline_max_threads(const sm_pipeline *);

typedef struct {
  sm_buffer *buffer;
  uint64_t offset, length;
} sm_bound; /* length: bytes usable from `offset` */
typedef struct {
  uint64_t threadgroups, threads, matrix_multiplies, matrix_loads, matrix_stores;
  uint64_t threadgroup_barriers, simdgroup_barriers, simd_operations, atomics, async_copies;
  uint64_t cost[SM_COST_COUNT];
} sm_counters;
typedef struct {
  uint32_t kind;
  int32_t buffer;
  uint32_t line, simdgroup, lane;
  uint32_t threadgroup[3], thread[3];
  char message[768];
} sm_finding;
typedef struct {
  uint32_t threads[3], groups[3], group_size[3];
  uint32_t dynamic_length[SM_BUFFER_COUNT];
  sm_bound bindings[SM_BUFFER_COUNT];
  uint32_t workers, order; /* order: 0 forward, 1 reversed, 2 by seed */
  uint32_t flush_subnormals;
  uint64_t seed;
  sm_counters counters; /* out */
  sm_finding finding;   /* out */
  uint32_t noted;       /* out: faults that were passed over, each place once */
  sm_finding notes[SM_NOTE_COUNT];
} sm_dispatch;
/* 0: done. 1: a finding. 2: out of memory. */
int sm_pipeline_dispatch(sm_pipeline *, sm_dispatch *);

void sm_free(char *);
#ifdef __cplusplus
}
#endif
#endif
