// 16-byte vectors of feature maps, and single values of any type. Free of torch. A host compiler takes these files
// too, after tests/ops/cuda_emulation/runtime.h, which stands in for CUDA; for it, shared memory is declared by
// T2ILAYERS_SHARED, at most once a kernel.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define T2ILAYERS_SHARED(Type, name) __shared__ Type name
#endif

#include <cstdint>
#include <cstring>

#include "../problem.h"

namespace t2ilayers {
namespace gpu {

#define T2ILAYERS_DEVICE __device__ __forceinline__

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Kernels are `kWide`, with accesses of 16 bytes, where lines of values and pointers are multiples of that, and
// take values one by one otherwise.
template <class S, bool kWide>
constexpr int kVector = kWide ? 16 / sizeof(S) : 1;

// V values as they lie in memory, in words, so that a load need not be waited for before the next one.
template <class S, int V>
struct Pack {
  static constexpr int kWords = (V * int(sizeof(S)) + 3) / 4;
  uint32_t word[kWords];
};

// V values, or zeros. kWide: in one access of 16, 8 or 4 bytes.
template <int V, bool kWide, class S>
T2ILAYERS_DEVICE Pack<S, V> load(const S* from, bool inside) {
  using P = Pack<S, V>;
  P pack{};
  if (inside) {
    if constexpr (kWide && P::kWords == 4) {
      const uint4 q = __ldg(reinterpret_cast<const uint4*>(from));
      pack.word[0] = q.x, pack.word[1] = q.y, pack.word[2] = q.z, pack.word[3] = q.w;
    } else if constexpr (kWide && P::kWords == 2) {
      const uint2 q = __ldg(reinterpret_cast<const uint2*>(from));
      pack.word[0] = q.x, pack.word[1] = q.y;
    } else if constexpr (kWide) {
      pack.word[0] = __ldg(reinterpret_cast<const uint32_t*>(from));
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if constexpr (sizeof(S) == 4)
          pack.word[i] = __float_as_uint(__ldg(from + i));
        else
          pack.word[i / 2] |= uint32_t(__ldg(&from[i].bits)) << 16 * (i % 2);
      }
    }
  }
  return pack;
}

// A word's two values, the first one in its low half.
T2ILAYERS_DEVICE float2 unpack(uint32_t word, Half) {
  __half2 both;
  memcpy(&both, &word, 4);
  return __half22float2(both);
}
T2ILAYERS_DEVICE float2 unpack(uint32_t word, BFloat16) {
  return float2{__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}
T2ILAYERS_DEVICE uint32_t pack(float low, float high, Half) {
  const __half2 both = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &both, 4);
  return word;
}
T2ILAYERS_DEVICE uint32_t pack(float low, float high, BFloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &both, 4);
  return word;
}

template <class S, int V>
T2ILAYERS_DEVICE float value(const Pack<S, V>& pack, int i) {
  if constexpr (sizeof(S) == 4) {
    return __uint_as_float(pack.word[i]);
  } else {
    const float2 both = unpack(pack.word[i / 2], S{});
    return i % 2 ? both.y : both.x;
  }
}

template <class S, int V>
T2ILAYERS_DEVICE void widen(const Pack<S, V>& pack, float (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = value(pack, i);
}

template <bool kWide, class S, int V>
T2ILAYERS_DEVICE void store(S* to, const float (&from)[V]) {
  using P = Pack<S, V>;
  P packed;
#pragma unroll
  for (int i = 0; i < P::kWords; ++i) {
    if constexpr (sizeof(S) == 4)
      packed.word[i] = __float_as_uint(from[i]);
    else
      packed.word[i] = pack(from[2 * i], 2 * i + 1 < V ? from[(2 * i + 1) % V] : 0, S{});
  }
  if constexpr (kWide && P::kWords == 4) {
    *reinterpret_cast<uint4*>(to) = uint4{packed.word[0], packed.word[1], packed.word[2], packed.word[3]};
  } else if constexpr (kWide && P::kWords == 2) {
    *reinterpret_cast<uint2*>(to) = uint2{packed.word[0], packed.word[1]};
  } else if constexpr (kWide) {
    *reinterpret_cast<uint32_t*>(to) = packed.word[0];
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if constexpr (sizeof(S) == 4)
        to[i] = from[i];
      else
        to[i].bits = uint16_t(packed.word[i / 2] >> 16 * (i % 2));
    }
  }
}

// --- Single values, of a type that is known when a kernel runs -------------------------------------------------

T2ILAYERS_DEVICE float read(const void* from, DType type, int64_t i) {
  switch (type) {
    case DType::f64: return float(__ldg(static_cast<const double*>(from) + i));
    case DType::f16: return unpack(__ldg(static_cast<const uint16_t*>(from) + i), Half{}).x;
    case DType::bf16: return unpack(__ldg(static_cast<const uint16_t*>(from) + i), BFloat16{}).x;
    default: return __ldg(static_cast<const float*>(from) + i);
  }
}

T2ILAYERS_DEVICE void write(void* to, DType type, int64_t i, double value) {
  switch (type) {
    case DType::f64: static_cast<double*>(to)[i] = value; break;
    case DType::f16: static_cast<uint16_t*>(to)[i] = uint16_t(pack(float(value), 0, Half{})); break;
    case DType::bf16: static_cast<uint16_t*>(to)[i] = uint16_t(pack(float(value), 0, BFloat16{})); break;
    default: static_cast<float*>(to)[i] = float(value);
  }
}

}  // namespace gpu
}  // namespace t2ilayers
