// The small kernels that merge the partial results of blocks, in a fixed order and in double.
#pragma once
#include "sums.cuh"

namespace t2ilayers {
namespace gpu {

// A warp a statistic.
__global__ void __launch_bounds__(kThreads)
finish_statistics(const Moments<double>* partial, Parts parts, int64_t statistics, Results results) {
  const int64_t k = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (k >= statistics) return;
  const int lane = threadIdx.x % 32;
  const Moments<double>* first = partial + k / parts.per * parts.outer + k % parts.per * parts.inner;
  Moments<double> all{0, 0, 0};
  for (int64_t i = lane; i < parts.rows * parts.width; i += 32)
    merge(all, first[i / parts.width * parts.stride + i % parts.width]);
  merge_lanes(all, 1);
  if (lane == 0) keep(results, k, all);
}

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
    write(f.dmask, g.mask_type, i, sum);
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool alone = f.warps == 1;
  const unsigned k = alone ? blockIdx.x * kWarps + warp : blockIdx.x;
  // Rows of a set: the sample's channels of one statistic, or the samples of one channel.
  const int64_t pairs = k < f.sets ? (g.groups > 0 ? g.width : g.n) : 0;
  double s1 = 0, s2 = 0;
  for (int64_t pair = alone ? 0 : warp; pair < pairs; pair += f.warps) {
    const int64_t row = g.groups > 0 ? int64_t(k / g.groups) * g.c + k % g.groups * g.width + pair : pair * g.c + k;
    double a = 0, b = 0, dbeta = 0, dgamma = 0;
    for (int64_t part = lane; part < f.parts; part += 32) {
      const float4 sums = f.partial[row * f.parts + part];
      a += sums.x, b += sums.y, dbeta += sums.z, dgamma += sums.w;
    }
    a = warp_sum(a), b = warp_sum(b), dbeta = warp_sum(dbeta), dgamma = warp_sum(dgamma);
    const double gamma = f.gamma ? double(read(f.gamma, g.gamma_type, row) - g.absolute) : 0;
    s1 += a + gamma * dbeta;
    s2 += b + gamma * dgamma;
    if (lane == 0 && f.gamma) {
      write(f.dgamma, g.gamma_type, row, dgamma);
      write(f.dbeta, g.beta_type, row, dbeta);
    }
  }
  if (lane == 0) shared.s1[warp] = s1, shared.s2[warp] = s2;
  __syncthreads();
  if (lane == 0 && (alone || warp == 0) && k < f.sets && f.sums) {
    for (int other = 1; other < f.warps; ++other) s1 += shared.s1[warp + other], s2 += shared.s2[warp + other];
    f.sums[k] = s1;
    f.sums[f.sets + k] = s2;
  }
}

__global__ void __launch_bounds__(kThreads) finish_chain(Shape g, FinishChain f) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, pair = i / f.rows, row = i - pair * f.rows;
  if (pair >= f.pairs) return;
  double dgamma = 0, dbeta = 0;
  for (int64_t part = 0; part < f.parts; ++part) {
    const float* sums = f.partial + ((row * f.parts + part) * f.pairs + pair) * 2;
    dgamma += sums[0], dbeta += sums[1];
  }
  write(f.dgamma, g.gamma_type, i, dgamma);
  write(f.dbeta, g.beta_type, i, dbeta);
}

void finish(const Moments<double>* partial, const Parts& parts, int64_t statistics, const Results& results,
            Stream stream) {
  launch(stream, finish_statistics, ceil_div(statistics, kWarps), kThreads, partial, parts, statistics, results);
}

void finish(const Shape& g, const FinishChain& f, Stream stream) {
  launch(stream, finish_chain, ceil_div(f.rows * f.pairs, kThreads), kThreads, g, f);
}

void finish(const Shape& g, const Finish& f, Stream stream) {
  launch(stream, finish_reduce, f.blocks + ceil_div(f.mask_pixels, kThreads), kThreads, g, f);
}

}  // namespace gpu
}  // namespace t2ilayers
