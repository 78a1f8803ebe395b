// The texts that the run-time compiler reads. Each file under device/ is one raw string literal.
#pragma once
#include "abi.h"
#include <string>

namespace softmetal::text {
inline const char *const macros =
#include "device/macros.h"
    ;
inline const char *const kernelABI =
#include "device/kernel_abi.h"
    ;
inline const char *const types =
#include "device/lib_types.h"
    ;
inline const char *const math =
#include "device/lib_math.h"
    ;
inline const char *const geometry =
#include "device/lib_geometry.h"
    ;
inline const char *const simd =
#include "device/lib_simd.h"
    ;
inline const char *const matrix =
#include "device/lib_matrix.h"
    ;
inline const char *const core =
#include "device/rt_core.h"
    ;
inline const char *const rendezvous =
#include "device/rt_simd.h"
    ;
inline const char *const memory =
#include "device/rt_memory.h"
    ;
inline const char *const async =
#include "device/rt_async.h"
    ;
inline const char *const run =
#include "device/rt_run.h"
    ;
inline const char *const load =
#include "device/rt_load.h"
    ;
inline const char *const worker =
#include "device/worker.h"
    ;

/// The executor, one C++ file.
inline std::string executor() {
  return std::string("#include <cstdint>\n#define SM_PLAIN\n") + embedded::abi + "\n" + kernelABI + core + rendezvous +
         memory + async + run + load;
}
/// The stand-in library. Counters leave out what belongs to sm_runtime, and count what belongs to sm_stdlib.
inline std::string library() {
  return std::string("#line 1 \"sm_stdlib\"\n") + types + "\n" + math + geometry +
         "\n#define SM_PLAIN __private\n#line 1 \"sm_runtime\"\n" + kernelABI + simd + matrix + macros;
}
} // namespace softmetal::text
