// The op: z = a xhat + b with a = 1 + gamma m, or absolute 1 - m + gamma m, and b = beta m; y = act(z).
// Forward and backward must agree on the sign of z, so both call `point`, in which every rounding is written out.
#pragma once
#include "passes.cuh"

namespace t2ilayers {
namespace gpu {

// What a sample's channel has in common.
struct Row {
  float high;    // of the mean, in two parts so that one far from zero costs no digits,
  float offset;  // minus the other part, times rstd
  float rstd;    // 1 / sqrt(var + eps)
  float gamma, beta;
  float k1, k2;  // see Backward
};

T2ILAYERS_DEVICE Row make_row(const Shape& g, const Inputs& in, int64_t n, int c) {
  Row row{0, 0, 1, 0, 0, 0, 0};
  if (in.gamma) {
    row.gamma = read(in.gamma, g.gamma_type, n * g.c + c);
    row.beta = read(in.beta, g.beta_type, n * g.c + c);
  }
  if (g.groups < 0) return row;
  const int64_t k = statistic(g, n, c), statistics = g.groups ? g.n * g.groups : g.c;
  const double mean = in.mean[k];
  // In float: square root and division of doubles take long, and every block begins with this.
  row.rstd = __frcp_rn(__fsqrt_rn(float(in.var[k] + g.eps)));
  row.high = float(mean);
  row.offset = float((double(row.high) - mean) * row.rstd);
  if (in.sums) {
    row.k1 = float(in.sums[k] * g.scale);
    row.k2 = float(in.sums[statistics + k] * g.scale);
  }
  return row;
}

// Where the compiler may not move a read of shared memory across, to have it in a register all the time.
#define T2ILAYERS_FENCE asm volatile("" ::: "memory")

// Rows in shared memory, in two halves: lanes that read neighbours meet no bank twice.
template <int N>
struct Rows {
  float4 first[N], second[N];

  T2ILAYERS_DEVICE void put(int i, const Row& row) {
    first[i] = float4{row.high, row.offset, row.rstd, row.gamma};
    second[i] = float4{row.beta, row.k1, row.k2, 0};
  }
  T2ILAYERS_DEVICE Row get(int i) const {
    const float4 a = first[i], b = second[i];
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z};
  }
};

T2ILAYERS_DEVICE float normalized(const Row& row, float x) { return fmaf(x - row.high, row.rstd, row.offset); }

struct Point {
  float xhat, a, z;
};

T2ILAYERS_DEVICE Point point(const Shape& g, const Row& row, float m, float x) {
  const float xhat = normalized(row, x);
  const float a = fmaf(row.gamma, m, fmaf(-g.absolute, m, 1));
  return {xhat, a, fmaf(a, xhat, row.beta * m)};
}

// The derivative of z by m.
T2ILAYERS_DEVICE float by_mask(const Shape& g, const Row& row, float xhat) {
  return fmaf(row.gamma - g.absolute, xhat, row.beta);
}

T2ILAYERS_DEVICE float sigmoid(float z) { return __fdividef(1, 1 + expf(-z)); }

// slope v, or for relu 0, of infinities too. By bits: with a condition compilers make every loop twice.
T2ILAYERS_DEVICE float sloped(const Shape& g, float v) {
  return __uint_as_float(__float_as_uint(g.slope * v) & g.slope_bits);
}

template <bool kSilu>
T2ILAYERS_DEVICE float activated(const Shape& g, float z) {
  if constexpr (kSilu) return z * sigmoid(z);
  return z <= 0 ? sloped(g, z) : z;
}

// dy act'(z)
template <bool kSilu>
T2ILAYERS_DEVICE float through(const Shape& g, float z, float dy) {
  if constexpr (kSilu) {
    const float s = sigmoid(z);
    return dy * (s * fmaf(z, 1 - s, 1));
  }
  return z <= 0 ? sloped(g, dy) : dy;
}

}  // namespace gpu
}  // namespace t2ilayers
