// Sums over lanes and warps, and what statistics are made of.
#pragma once
#include "passes.cuh"

namespace t2ilayers {
namespace gpu {

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

// Chan's formula, which does not mind empty parts.
template <class T>
T2ILAYERS_DEVICE void merge(Moments<T>& into, const Moments<T>& other) {
  const T total = into.count + other.count;
  if (total == 0) return;
  const T delta = other.mean - into.mean, share = other.count / total;
  into.mean += delta * share;
  into.m2 += other.m2 + delta * delta * into.count * share;
  into.count = total;
}

// Over the lanes that differ in bits `from` and above.
template <class T>
T2ILAYERS_DEVICE void merge_lanes(Moments<T>& mine, int from) {
  for (int offset = from; offset < 32; offset *= 2) {
    Moments<T> other;
    other.count = __shfl_xor_sync(kAllLanes, mine.count, offset);
    other.mean = __shfl_xor_sync(kAllLanes, mine.mean, offset);
    other.m2 = __shfl_xor_sync(kAllLanes, mine.m2, offset);
    merge(mine, other);
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

// running = (1 - momentum) running + momentum value
template <class T>
T2ILAYERS_DEVICE void move(T& running, double momentum, double value) {
  running = T(double(running) + momentum * (value - double(running)));
}

T2ILAYERS_DEVICE void move(void* running, DType type, int64_t k, double momentum, double value) {
  if (type == DType::f64) return move(static_cast<double*>(running)[k], momentum, value);
  if (type == DType::f32) return move(static_cast<float*>(running)[k], momentum, value);
  const uint32_t bits = static_cast<uint16_t*>(running)[k];
  float old = type == DType::f16 ? unpack(bits, Half{}).x : unpack(bits, BFloat16{}).x;
  move(old, momentum, value);
  write(running, type, k, old);
}

// Statistic k, of all its values. Nothing moves where there are none.
T2ILAYERS_DEVICE void keep(const Results& to, int64_t k, const Moments<double>& all) {
  const double var = all.count > 0 ? all.m2 / all.count : 0;
  to.mean[k] = all.mean;
  to.var[k] = var;
  const Running& r = to.running;
  if (!r.mean || all.count == 0) return;
  const double count = all.count * double(r.repeats);
  move(r.mean, r.dtype, k, r.momentum, all.mean);
  move(r.var, r.dtype, k, r.momentum, count > 1 ? var * (count / (count - 1)) : var);
}

}  // namespace gpu
}  // namespace t2ilayers
