// What the kernels of both layouts are made of: 16-byte vectors, the op's arithmetic, sums over lanes and warps.
// Free of torch. A host compiler takes these files too, after tests/cuda_emulation/runtime.h, which stands in
// for CUDA; for it, shared memory is declared by T2ILAYERS_SHARED, at most once a kernel.
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

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

// Kernels are `kWide`, with accesses of 16 bytes, where lines of values and pointers are multiples of that, and
// take values one by one otherwise.
template <class S, bool kWide>
constexpr int kVector = kWide ? 16 / sizeof(S) : 1;

// What one call is, as all kernels see it. A plane of pixels counts in 32 bits, everything else in 64.
struct Shape {
  int64_t n;
  int c, w;
  int pixels, out_pixels;  // of x and of y, in a sample's channel
  int groups, width;       // statistics in a sample and channels of each; groups 0: over the batch, width 1
  bool divided;            // sums are already divided by count
  double count, eps;
  float slope;
};

T2ILAYERS_DEVICE int64_t statistic(const Shape& g, int64_t n, int c) {
  return g.groups ? n * g.groups + c / g.width : c;
}

// --- Vectors ---------------------------------------------------------------------------------------------------

// V values as they lie in memory, in words, so that a load need not be waited for before the next one.
template <class S, int V>
struct Pack {
  static constexpr int kWords = (V * int(sizeof(S)) + 3) / 4;
  uint32_t word[kWords];
};

// V values, or zeros. kWide: in one access of 16 or 8 bytes.
template <int V, bool kWide, class S>
T2ILAYERS_DEVICE Pack<S, V> load(const S* from, bool inside) {
  using P = Pack<S, V>;
  P pack{};
  if (inside) {
    if constexpr (kWide && P::kWords == 4) {
      const uint4 q = __ldg(reinterpret_cast<const uint4*>(from));
      pack.word[0] = q.x, pack.word[1] = q.y, pack.word[2] = q.z, pack.word[3] = q.w;
    } else if constexpr (kWide) {
      const uint2 q = __ldg(reinterpret_cast<const uint2*>(from));
      pack.word[0] = q.x, pack.word[1] = q.y;
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
T2ILAYERS_DEVICE float2 unpack(uint32_t word, F16) {
  __half2 both;
  memcpy(&both, &word, 4);
  return __half22float2(both);
}
T2ILAYERS_DEVICE float2 unpack(uint32_t word, BF16) {
  return float2{__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}
T2ILAYERS_DEVICE uint32_t pack(float low, float high, F16) {
  const __half2 both = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &both, 4);
  return word;
}
T2ILAYERS_DEVICE uint32_t pack(float low, float high, BF16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &both, 4);
  return word;
}

template <class S, int V>
T2ILAYERS_DEVICE void widen(const Pack<S, V>& pack, float (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if constexpr (sizeof(S) == 4) {
      to[i] = __uint_as_float(pack.word[i]);
    } else {
      const float2 both = unpack(pack.word[i / 2], S{});
      to[i] = i % 2 ? both.y : both.x;
    }
  }
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
  } else if constexpr (kWide) {
    *reinterpret_cast<uint2*>(to) = uint2{packed.word[0], packed.word[1]};
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

// --- The op ----------------------------------------------------------------------------------------------------

// What a sample's channel has in common.
struct alignas(16) Row {
  float hi;  // of the mean, in two parts so that one far from zero costs no digits,
  float lo;  // minus the other part, times r
  float r;   // 1 / sqrt(var + eps)
  float gamma, beta;
  float k1, k2;  // see Backward
};

T2ILAYERS_DEVICE Row make_row(const Shape& g, const double* mean, const double* var, const float* gamma,
                              const float* beta, const double* sums, int64_t n, int c) {
  const int64_t k = statistic(g, n, c), statistics = g.groups ? g.n * g.groups : g.c;
  const double r = 1 / sqrt(var[k] + g.eps);
  Row row;
  row.hi = float(mean[k]);
  row.lo = float((double(row.hi) - mean[k]) * r);
  row.r = float(r);
  row.gamma = gamma[n * g.c + c];
  row.beta = beta[n * g.c + c];
  row.k1 = row.k2 = 0;
  if (sums) {
    const double scale = g.divided ? 1 : 1 / g.count;
    row.k1 = float(sums[k] * scale);
    row.k2 = float(sums[statistics + k] * scale);
  }
  return row;
}

struct Point {
  float xhat, inner, z;  // inner = gamma xhat + beta
};

// Forward and backward must agree on the sign of z: nothing here is left to the compiler to contract.
__host__ __device__ __forceinline__ Point point(const Row& row, float m, float x) {
  const float xhat = fmaf(x - row.hi, row.r, row.lo);
  const float inner = fmaf(row.gamma, xhat, row.beta);
  return {xhat, inner, fmaf(m, inner, xhat)};
}

__host__ __device__ __forceinline__ float activated(float z, float slope) { return z > 0 ? z : slope * z; }

// dy act'(z)
__host__ __device__ __forceinline__ float through(float dy, float z, float slope) {
  return z > 0 ? dy : slope * dy;
}

// --- Sums ------------------------------------------------------------------------------------------------------

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
T2ILAYERS_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Lane i gets the warp's sum of values[i]: lanes hand half of their values to the one across, step by step.
template <int Offset>
T2ILAYERS_DEVICE float lane_sum(float (&values)[2 * Offset]) {
  const bool high = threadIdx.x & Offset;
  float half[Offset];
#pragma unroll
  for (int i = 0; i < Offset; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, high ? values[i] : values[i + Offset], Offset);
    half[i] = (high ? values[i + Offset] : values[i]) + other;
  }
  if constexpr (Offset == 1)
    return half[0];
  else
    return lane_sum<Offset / 2>(half);
}

// Count, mean and sum of squared deviations of some values.
template <class T>
struct Moments {
  T count, mean, m2;

  // Chan's formula, which does not mind empty parts.
  T2ILAYERS_DEVICE void merge(const Moments& other) {
    const T total = count + other.count;
    if (total == 0) return;
    const T delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

// Over the lanes that differ in bits `from` and above.
template <class T>
T2ILAYERS_DEVICE void merge_lanes(Moments<T>& mine, int from) {
  for (int offset = from; offset < 32; offset *= 2) {
    Moments<T> other;
    other.count = __shfl_xor_sync(kAllLanes, mine.count, offset);
    other.mean = __shfl_xor_sync(kAllLanes, mine.mean, offset);
    other.m2 = __shfl_xor_sync(kAllLanes, mine.m2, offset);
    mine.merge(other);
  }
}

// Shifted sums of one thread: by the mean of its own first values, so that neither a mean far from zero nor an
// outlier costs digits.
struct Shifted {
  float shift, count, sum, square;

  T2ILAYERS_DEVICE void add(float x) {
    const float d = x - shift;
    sum += d;
    square = fmaf(d, d, square);
  }
  // Its mean is relative to `base`, a number near the values.
  T2ILAYERS_DEVICE Moments<float> moments(float base) const {
    if (count == 0) return {0, 0, 0};
    const float mean = sum / count;
    return {count, (shift - base) + mean, fmaxf(fmaf(-sum, mean, square), 0)};
  }
};

}  // namespace gpu
}  // namespace t2ilayers
