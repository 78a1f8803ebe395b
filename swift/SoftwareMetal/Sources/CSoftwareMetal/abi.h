// Structures that the host (this target) and the executor (compiled at run time) share.
// SM_SHARED gives both of them: the declarations, and their text for the executor's compiler.
#pragma once
#include <cstddef>
#include <cstdint>

#define SM_SHARED(...)                                                                                                 \
  __VA_ARGS__                                                                                                          \
  namespace embedded {                                                                                                 \
  inline constexpr char abi[] = #__VA_ARGS__;                                                                          \
  }

// clang-format off: it does not read declarations in the arguments of a macro.
SM_SHARED(
  enum { SM_MAX_BUFFERS = 31, SM_COSTS = 12, SM_MAX_THREADS = 1024, SM_MAX_NOTES = 8 };

  /* Columns of a basic block's static cost, and of the counters made from them. */
  enum SmCost {
    SM_INT_OPS, SM_FLOAT_OPS, SM_MATH_CALLS, SM_BRANCHES, SM_DEVICE_READ, SM_DEVICE_WRITE,
    SM_TG_READ, SM_TG_WRITE, SM_CONSTANT_READ, SM_STACK_BYTES, SM_CONVERSIONS, SM_OTHER_OPS
  };

  /* A record of the last access to four bytes (or one byte of a split word). */
  struct SmCell { uint64_t w; uint64_t r; };

  /* One bound argument: `base` is already offset; `shadow` follows its allocation. */
  struct SmBinding {
    uint8_t *base; uint64_t length;
    uint8_t *allocation; SmCell *words; SmCell *bytes;
  };

  struct SmCounters {
    uint64_t threadgroups; uint64_t threads; uint64_t matrixMultiplies; uint64_t matrixLoads; uint64_t matrixStores;
    uint64_t threadgroupBarriers; uint64_t simdgroupBarriers; uint64_t simdOperations; uint64_t atomics;
    uint64_t asyncCopies;
    uint64_t cost[SM_COSTS];
  };

  struct SmFinding {
    uint32_t kind; int32_t buffer; uint32_t line; uint32_t simdgroup; uint32_t lane; uint32_t access;
    uint32_t threadgroup[3]; uint32_t thread[3]; char message[768];
  };

  struct SmDispatch {
    uint32_t threads[3]; uint32_t groups[3]; uint32_t groupSize[3];
    uint32_t dynamicLength[SM_MAX_BUFFERS]; SmBinding bindings[SM_MAX_BUFFERS];
    uint32_t tgOffsets[256]; uint32_t tgSizes[256]; uint32_t tgStatics; uint32_t tgStaticLength;
    uint32_t workers; uint32_t order; uint64_t seed; uint32_t flush; uint32_t checked; uint32_t blocks; uint32_t sites;
    const uint32_t *blockCosts; const uint32_t *siteLines; const uint8_t *imageBegin; const uint8_t *imageEnd;
    uint8_t *unbound; uint64_t unboundStride;
    void (*entry)(void *); const char *kernel;
    uint64_t firstSerial; SmCounters counters; int32_t failed; SmFinding finding;
    uint32_t asApple; uint32_t noted; SmFinding notes[SM_MAX_NOTES];
  };

  /* The requests of a kernel library while it is loaded: function constants, sizes of threadgroup variables. */
  struct SmConstant { uint32_t index; uint32_t size; uint8_t value[32]; };
  struct SmLoad {
    const SmConstant *constants; uint32_t count;
    uint32_t staticSizes[256]; int32_t mismatch; uint32_t expectedSize; uint32_t foundSize;
  };
)
// clang-format on
