// Stands in for CUDA where there is no GPU, for the kernels of ops/csrc: what they use of it, with the same
// meaning on one processor thread. Blocks run one after another. A block's threads are fibers, switched at
// barriers and shuffles only, so both wait for everyone they should. Found here, and reported by launch:
//   - threads of a block that wait at different barriers, or end while others wait;
//   - reading shared memory before writing it (it is NaN when a block starts);
//   - loads by __ldg from outside the buffers that are named in `readable`;
//   - results that depend on which thread or block runs first, by calling with another Stream.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define T2ILAYERS_SHARED(Type, name) Type& name = *static_cast<Type*>(emulation::shared(sizeof(Type)))

using std::fmaf;
using std::max;
using std::min;
using std::sqrt;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kMaxThreads = 1024;
constexpr size_t kStack = 256 << 10, kSharedMemory = 48 << 10;

enum class State { ready, at_warp, at_block, done };

struct Fiber {
  State state;
  int line;  // of the barrier it waits at
  bool odd;  // whether it has shuffled an odd number of times
  jmp_buf at;
  ucontext_t start;
  std::vector<char> stack;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler_start;
inline jmp_buf scheduler;
inline int current;
inline std::function<void()> body;
alignas(16) inline char shared_memory[kSharedMemory];
inline double slots[kMaxThreads][2];  // what lanes hand over, in turn, so that one wait a shuffle does
inline const char* failure;
inline std::vector<std::pair<const char*, const char*>> readable;  // begin and end

inline void leave() {
  if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

// A fiber lives on from block to block.
inline void run_fiber() {
  for (;;) {
    body();
    fibers[current].state = State::done;
    leave();
  }
}

inline void resume(int thread) {
  Fiber& fiber = fibers[thread];
  current = thread;
  threadIdx.x = thread;
  if (_setjmp(scheduler)) return;
  if (fiber.stack.empty()) {
    fiber.stack.resize(kStack);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_fiber, 0);
    setcontext(&fiber.start);
  }
  _longjmp(fiber.at, 1);
}

inline void wait(State state, int line) {
  fibers[current].state = state;
  fibers[current].line = line;
  leave();
}

// Lets fibers [begin, end) go on if all of them wait for it.
inline bool release(int begin, int end, State state) {
  for (int t = begin; t < end; ++t)
    if (fibers[t].state != state || fibers[t].line != fibers[begin].line) return false;
  for (int t = begin; t < end; ++t) fibers[t].state = State::ready;
  return true;
}

inline void* shared(size_t bytes) {
  if (bytes > kSharedMemory) failure = "a kernel declares more than 48 KiB of shared memory";
  return shared_memory;
}

inline void run_block(int threads, const std::vector<int>& order) {
  std::memset(shared_memory, 0xff, sizeof shared_memory);
  for (int t = 0; t < threads; ++t) fibers[t].state = State::ready, fibers[t].odd = false;
  for (bool moved = true; moved;) {
    moved = false;
    for (int t : order)
      if (fibers[t].state == State::ready) resume(t), moved = true;
    for (int t = 0; t < threads; t += 32) moved |= release(t, t + 32, State::at_warp);
    moved |= release(0, threads, State::at_block);
  }
  for (int t = 0; t < threads; ++t)
    if (fibers[t].state != State::done) {
      fibers.clear();
      throw std::runtime_error("threads of a block wait at different barriers, or ended while others wait");
    }
  if (failure) throw std::runtime_error(failure);
}

}  // namespace emulation

inline void __syncthreads(int line = __builtin_LINE()) { emulation::wait(emulation::State::at_block, line); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset, int line = __builtin_LINE()) {
  using namespace emulation;
  if (mask != 0xffffffffu || offset < 1 || offset > 31) failure = "a shuffle that is not of a whole warp";
  Fiber& fiber = fibers[current];
  const int turn = fiber.odd;
  fiber.odd = !fiber.odd;
  std::memcpy(&slots[current][turn], &value, sizeof value);
  wait(State::at_warp, line);
  std::memcpy(&value, &slots[current ^ offset][turn], sizeof value);
  return value;
}

template <class T>
T __ldg(const T* from) {
  const auto* begin = reinterpret_cast<const char*>(from);
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T)) emulation::failure = "a load that is not aligned";
  for (const auto& buffer : emulation::readable)
    if (begin >= buffer.first && begin + sizeof(T) <= buffer.second) return *from;
  emulation::failure = "a load from outside the buffers";
  return T{};
}
inline float __frcp_rn(float value) { return 1 / value; }
inline float __fsqrt_rn(float value) { return sqrt(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct __half2 {
  _Float16 x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {_Float16(x), _Float16(y)}; }
inline float2 __half22float2(__half2 both) { return {float(both.x), float(both.y)}; }

struct __nv_bfloat162 {
  uint16_t x, y;
};
inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = __float_as_uint(value);
  return value == value ? uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fff;
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {to_bfloat16(x), to_bfloat16(y)}; }

namespace t2ilayers {
namespace gpu {

// The order that threads and blocks run in: 0 as numbered, 1 from the last, others mixed up.
using Stream = int;

template <class... P, class... A>
void launch(Stream stream, void (*kernel)(P...), int64_t blocks, int threads, A... arguments) {
  using namespace emulation;
  if (threads % 32 || threads < 32 || threads > kMaxThreads) throw std::runtime_error("an odd size of block");
  if (blocks < 0 || blocks >= int64_t(1) << 31) throw std::runtime_error("a grid that CUDA refuses");
  if (int(fibers.size()) < threads) {
    fibers.clear();
    fibers.resize(kMaxThreads);
  }
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i)
    order[i] = stream == 0 ? i : stream == 1 ? threads - 1 - i : (i * 37 + stream) % threads;
  body = [&] { kernel(P(arguments)...); };
  gridDim.x = unsigned(blocks);
  blockDim.x = unsigned(threads);
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = unsigned(stream == 0 ? block : blocks - 1 - block);
    run_block(threads, order);
  }
}

}  // namespace gpu
}  // namespace t2ilayers
