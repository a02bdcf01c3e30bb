// What a pass over the maps is given, whatever their layout.
#pragma once
#include "vector.cuh"

namespace t2ilayers {
namespace gpu {

// What one call is, as all kernels see it. A plane of pixels counts in 32 bits, everything else in 64.
struct Shape {
  int64_t n;
  int c, w;
  int pixels, out_pixels;  // of x and of y, in a sample's channel
  int groups, width;       // as Problem's groups; channels of each, 1 where there are none
  double eps, scale;       // k = scale sums
  float slope;             // of the activation, see Problem
  uint32_t slope_bits;     // which bits of slope v count: all, or none for relu
  float absolute;          // 1 or 0
  DType gamma_type, beta_type, mask_type;
};

T2ILAYERS_DEVICE int64_t statistic(const Shape& g, int64_t n, int c) {
  return g.groups ? n * g.groups + c / g.width : c;
}

struct Inputs {
  const void *dy, *x;
  const void *gamma, *beta;  // (n, c), or null where they are maps
  const void* mask;
  const double *mean, *var;
  const double* sums;  // (2, statistics), or null where dx has no part that comes from statistics
};

// The sums of backward. Blocks take parts of a sample's pixels and blocks of channels.
struct Reduce {
  float4* partial;  // (n, c, parts): sums of dz, dz xhat, dz m, dz m xhat
  void* dmask;      // (blocks of channels, n, pixels), or null
  DType dmask_type;
  unsigned blocks, parts;
  int part_size;
  void* dx;  // where statistics are constant, so that it needs no sums
};

// Where the statistics go.
struct Results {
  double *mean, *var;
  Running running;
};

// Count, mean and sum of squared deviations of some values.
template <class T>
struct Moments {
  T count, mean, m2;
};

// The parts of statistic k: `rows` rows of `width`, from (k / per) outer + (k % per) inner on.
struct Parts {
  int64_t per, outer, inner, rows, stride;
  int width;
};

// Of the sums of all parts: the rows of each set that shares a statistic, and dmask of all blocks of channels.
struct Finish {
  const float4* partial;  // see Reduce
  int64_t parts;
  int warps;  // of a set: 1 or kWarps
  int64_t sets, blocks;  // the first `blocks` blocks do the sets of rows that share a statistic, the others dmask
  const void* gamma;  // null where parameters are maps
  void *dgamma, *dbeta;
  double* sums;  // or null
  const float* dmask_partial;  // (layers, pixels)
  int layers;
  int64_t mask_pixels;
  void* dmask;
};

// Of a chain's parts.
struct FinishChain {
  const float* partial;  // (rows, parts, 2 pairs)
  int64_t parts, rows, pairs;
  void *dgamma, *dbeta;  // (pairs, rows)
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The small kernels at the end of a pass, see finish.cuh.
void finish(const Moments<double>* partial, const Parts& parts, int64_t statistics, const Results& results, Stream);
void finish(const Shape& g, const Finish& f, Stream);
void finish(const Shape& g, const FinishChain& f, Stream);

}  // namespace gpu
}  // namespace t2ilayers
