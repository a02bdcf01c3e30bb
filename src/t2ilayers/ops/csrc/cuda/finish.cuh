// The small kernels that merge the partial results of blocks, in a fixed order and in double.
#pragma once
#include "vector.cuh"

namespace t2ilayers {
namespace gpu {

// The parts of statistic k: `rows` rows of `width`, from (k / per) outer + (k % per) inner on.
struct Parts {
  int64_t per, outer, inner, rows, stride;
  int width;
};

// A warp a statistic.
__global__ void __launch_bounds__(kThreads)
finish_statistics(const Moments<double>* partial, Parts parts, int64_t statistics, double* mean, double* var) {
  const int64_t k = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (k >= statistics) return;
  const int lane = threadIdx.x % 32;
  const Moments<double>* first = partial + k / parts.per * parts.outer + k % parts.per * parts.inner;
  Moments<double> all{0, 0, 0};
  for (int64_t i = lane; i < parts.rows * parts.width; i += 32)
    all.merge(first[i / parts.width * parts.stride + i % parts.width]);
  merge_lanes(all, 1);
  if (lane == 0) {
    mean[k] = all.mean;
    var[k] = all.count > 0 ? all.m2 / all.count : 0;
  }
}

struct Finish {
  const float4* partial;  // (n, c, parts) of sum dz, dz xhat, dz m, dz m xhat
  int64_t parts;
  int warps;  // that share a statistic: 1 or kWarps
  int64_t statistics, blocks;  // the first `blocks` blocks do the statistics, the others dmask
  const float* gamma;
  float *dgamma, *dbeta;
  double* sums;
  const float* dmask_partial;  // (layers, pixels)
  int layers;
  int64_t mask_pixels;
  float* dmask;
};

__global__ void __launch_bounds__(kThreads) finish_reduce(Shape g, Finish f) {
  struct Shared {
    double s1[kWarps], s2[kWarps];
  };
  T2ILAYERS_SHARED(Shared, shared);
  if (int64_t(blockIdx.x) >= f.blocks) {
    const int64_t i = (int64_t(blockIdx.x) - f.blocks) * kThreads + threadIdx.x;
    if (i >= f.mask_pixels) return;
    float sum = 0;
    for (int layer = 0; layer < f.layers; ++layer) sum += f.dmask_partial[layer * f.mask_pixels + i];
    f.dmask[i] = sum;
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool alone = f.warps == 1;
  const unsigned k = alone ? blockIdx.x * kWarps + warp : blockIdx.x;
  // The sample's channels of one statistic, or the samples of one channel.
  const int64_t pairs = k < f.statistics ? (g.groups ? g.width : g.n) : 0;
  double s1 = 0, s2 = 0;
  for (int64_t pair = alone ? 0 : warp; pair < pairs; pair += f.warps) {
    const int64_t row = g.groups ? int64_t(k / g.groups) * g.c + k % g.groups * g.width + pair : pair * g.c + k;
    double a = 0, b = 0, dbeta = 0, dgamma = 0;
    for (int64_t part = lane; part < f.parts; part += 32) {
      const float4 sums = f.partial[row * f.parts + part];
      a += sums.x, b += sums.y, dbeta += sums.z, dgamma += sums.w;
    }
    a = warp_sum(a), b = warp_sum(b), dbeta = warp_sum(dbeta), dgamma = warp_sum(dgamma);
    s1 += a + f.gamma[row] * dbeta;
    s2 += b + f.gamma[row] * dgamma;
    if (lane == 0) f.dgamma[row] = float(dgamma), f.dbeta[row] = float(dbeta);
  }
  if (lane == 0) shared.s1[warp] = s1, shared.s2[warp] = s2;
  __syncthreads();
  if (lane == 0 && (alone || warp == 0) && k < f.statistics) {
    for (int other = 1; other < f.warps; ++other) s1 += shared.s1[warp + other], s2 += shared.s2[warp + other];
    f.sums[k] = s1;
    f.sums[f.statistics + k] = s2;
  }
}

}  // namespace gpu
}  // namespace t2ilayers
