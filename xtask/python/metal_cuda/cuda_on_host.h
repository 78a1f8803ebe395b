// Enough of CUDA for msl_cuda.h on a processor: one threadgroup at a time, a fibre for each of its threads. Fibres run
// until they wait for each other; each gets its turn in order. For tests without a GPU: see host.py.

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define MSL inline
#define MSL_OUT_OF_LINE inline
#define MSL_DYNAMIC_MEMORY(name) static float4 name[2048]
#define __global__
#define __shared__ static
#define __launch_bounds__(n)

using std::memcpy;

namespace cuda_on_host {

struct Index {
  unsigned x, y, z;
};
constexpr int LANES = 32;

// Those who wait for each other: a SIMD group or a threadgroup.
struct Group {
  int members = 0, arrived = 0;
  unsigned long turn = 0;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool ended = false;
  // Shuffles so far: their parity says which of two places of exchange is used.
  unsigned long shuffles = 0;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Group> simd;
  Group all;
  std::vector<uint32_t> exchange[2];
  ucontext_t scheduler;
  unsigned current = 0;
  void (*body)(void **) = nullptr;
  void **parameters = nullptr;
};
inline Block block;

}  // namespace cuda_on_host

inline cuda_on_host::Index blockIdx, threadIdx, blockDim, gridDim;

namespace cuda_on_host {

inline void yield() { swapcontext(&block.threads[block.current].context, &block.scheduler); }

// Waits until all members that have not ended are here.
inline void meet(Group &group) {
  const unsigned long turn = group.turn;
  if (++group.arrived >= group.members) {
    group.arrived = 0;
    ++group.turn;
    return;
  }
  while (group.turn == turn) yield();
}

inline void leave(Group &group) {
  --group.members;
  if (group.members > 0 && group.arrived >= group.members) {
    group.arrived = 0;
    ++group.turn;
  }
}

inline Group &own_simd_group() { return block.simd[threadIdx.x / LANES]; }

template <class T>
T shuffled(T x, unsigned from) {
  static_assert(sizeof(T) == 4, "shuffles move 32 bits");
  auto &place = block.exchange[block.threads[threadIdx.x].shuffles++ & 1];
  memcpy(&place[threadIdx.x], &x, 4);
  meet(own_simd_group());
  T y;
  memcpy(&y, &place[threadIdx.x / LANES * LANES + from % LANES], 4);
  return y;
}

inline void enter() {
  block.body(block.parameters);
  block.threads[block.current].ended = true;
  leave(own_simd_group());
  leave(block.all);
  yield();
}

inline void run_block(unsigned threads) {
  block.threads.clear();
  block.threads.resize(threads);
  block.simd.assign((threads + LANES - 1) / LANES, Group{});
  block.all = Group{int(threads), 0, 0};
  for (auto &place : block.exchange) place.assign(block.simd.size() * LANES, 0);
  constexpr size_t STACK = 1 << 18;
  for (unsigned i = 0; i < threads; ++i) {
    Thread &thread = block.threads[i];
    ++block.simd[i / LANES].members;
    thread.stack.reset(new char[STACK]);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  for (unsigned left = threads; left > 0;) {
    for (unsigned i = 0; i < threads; ++i) {
      if (block.threads[i].ended) continue;
      block.current = i;
      threadIdx = {i, 0, 0};
      swapcontext(&block.scheduler, &block.threads[i].context);
      if (block.threads[i].ended) --left;
    }
  }
}

inline void run(void (*body)(void **), void **parameters, const unsigned *grid, unsigned threads) {
  block.body = body;
  block.parameters = parameters;
  blockDim = {threads, 1, 1};
  gridDim = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        run_block(threads);
      }
}

}  // namespace cuda_on_host

// MARK: CUDA's functions

inline float __int_as_float(int bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline int __float_as_int(float x) {
  int bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int __popc(int x) { return __builtin_popcount(unsigned(x)); }
template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return cuda_on_host::shuffled(x, unsigned(lane));
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return cuda_on_host::shuffled(x, (threadIdx.x % 32) ^ unsigned(mask));
}
template <class T>
T __shfl_down_sync(unsigned, T x, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_on_host::shuffled(x, lane + delta < 32 ? lane + delta : lane);
}
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_on_host::shuffled(x, lane >= delta ? lane - delta : lane);
}
inline int __any_sync(unsigned, int x) {
  int any = 0;
  for (unsigned lane = 0; lane < 32; ++lane) any |= cuda_on_host::shuffled(x, lane);
  return any != 0;
}
inline int __all_sync(unsigned, int x) { return !__any_sync(0, !x); }
inline void __syncthreads() { cuda_on_host::meet(cuda_on_host::block.all); }
inline void __syncwarp() { cuda_on_host::meet(cuda_on_host::own_simd_group()); }

namespace msl_target {

inline unsigned short half_bits(float x) {
  const uint32_t bits = uint32_t(__float_as_int(x)), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | (magnitude >> 13 & 0x1ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14 the steps are 2^-24: the sum with 0.5 rounds to them.
    const float shifted = std::fabs(x) + 0.5f;
    return sign | (__float_as_int(shifted) - 0x3f000000);
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | ((rounded - 0x38000000) >> 13);
}
inline float half_value(unsigned short bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const float x = float(mantissa) * 0x1p-24f;
    return sign ? -x : x;
  }
  if (exponent == 31) return __int_as_float(int(sign | 0x7f800000 | mantissa << 13));
  return __int_as_float(int(sign | (exponent + 112) << 23 | mantissa << 13));
}
inline unsigned short bfloat_bits(float x) {
  const uint32_t bits = uint32_t(__float_as_int(x));
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_log2(float x) { return std::log2(x); }
inline float fast_divide(float x, float y) { return x / y; }
inline float sqrt_rn(float x) { return std::sqrt(x); }
inline float divide_rn(float x, float y) { return x / y; }

}  // namespace msl_target
