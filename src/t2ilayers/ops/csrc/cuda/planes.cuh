// Planes of pixels, one a channel. A thread takes a cell: 16 bytes of a line of y, or with upsampling of two
// lines below each other, and the pixels of x that they come from.
#pragma once
#include "vector.cuh"

namespace t2ilayers {
namespace gpu {

template <class S, int UP, bool kWide>
struct Cell {
  static constexpr int kIn = kWide ? kVector<S, true> / UP : 1, kOut = UP * kIn;  // pixels of x and of a line of y
  int in, out;  // where in the planes
  bool inside;

  static __host__ __device__ int cells(const Shape& g) { return g.pixels / kIn; }

  T2ILAYERS_DEVICE Cell(const Shape& g, int cell) : in(cell * kIn), out(in), inside(cell < cells(g)) {
    if (UP == 2) out = 2 * in + in / g.w * 2 * g.w;
  }
};

// Masks, or ones.
template <bool kWide, int V>
T2ILAYERS_DEVICE void load_mask(const float* mask, bool inside, float (&to)[V]) {
  constexpr int kPart = kWide ? 4 : 1;
#pragma unroll
  for (int i = 0; i < V; i += kPart) {
    float part[kPart];
    widen(load<kPart, kWide>(mask + i, inside && mask), part);
#pragma unroll
    for (int j = 0; j < kPart; ++j) to[i + j] = mask ? part[j] : 1;
  }
}

// --- Statistics ------------------------------------------------------------------------------------------------

// Statistic k is of runs of `length` values, run r at (r statistics + k) length, which make `vectors` vectors.
// Threads take those of one part. With one part in all the block finishes by itself.
struct PlaneStatistics {
  unsigned statistics, parts;
  int64_t length, run_vectors, vectors, part_vectors;
  double *mean, *var;
  Moments<double>* partial;  // (statistics, parts)
};

template <class S, bool kWide>
__global__ void __launch_bounds__(kThreads) nchw_statistics(const S* x, PlaneStatistics a) {
  constexpr int V = kVector<S, kWide>, kBatch = 4;
  struct Shared {
    float base;
    Moments<float> warp[kWarps];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const int64_t k = blockIdx.x % a.statistics, part = blockIdx.x / a.statistics;
  const int64_t begin = part * a.part_vectors + threadIdx.x, end = min(a.vectors, (part + 1) * a.part_vectors);
  // Walks the runs without dividing.
  int64_t run = begin / a.run_vectors, at = begin % a.run_vectors;
  const int64_t run_step = blockDim.x / a.run_vectors, step = blockDim.x % a.run_vectors;
  Shifted mine{0, 0, 0, 0};
  for (int64_t i = begin; i < end;) {
    Pack<S, V> packs[kBatch];
    int batch = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      packs[b] = load<V, kWide>(x + (run * a.statistics + k) * a.length + at * V, i < end);
      batch += i < end;
      i += blockDim.x;
      run += run_step;
      at += step;
      if (at >= a.run_vectors) at -= a.run_vectors, ++run;
    }
    if (mine.count == 0) {
      float sum = 0;
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        float values[V];
        widen(packs[b], values);
#pragma unroll
        for (int j = 0; j < V; ++j) sum += values[j];  // those beyond the batch are 0
      }
      mine.shift = sum / (batch * V);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float values[V];
      widen(packs[b], values);
      if (b < batch)
#pragma unroll
        for (int j = 0; j < V; ++j) mine.add(values[j]);
    }
    mine.count += batch * V;
  }
  if (threadIdx.x == 0) shared.base = mine.shift;
  __syncthreads();
  Moments<float> moments = mine.moments(shared.base);
  merge_lanes(moments, 1);
  if (threadIdx.x % 32 == 0) shared.warp[threadIdx.x / 32] = moments;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < int(blockDim.x / 32); ++warp) moments.merge(shared.warp[warp]);
  const double mean = double(shared.base) + moments.mean;
  if (a.parts > 1) {
    a.partial[k * a.parts + part] = {moments.count, mean, moments.m2};
  } else {
    a.mean[k] = mean;
    a.var[k] = moments.count > 0 ? double(moments.m2) / moments.count : 0;
  }
}

// --- Elementwise: y from x, or dx from dy and x ----------------------------------------------------------------

struct Map {
  const void *dy, *x;
  const float *gamma, *beta, *mask;
  const double *mean, *var, *sums;
  void* to;
};

struct PlaneTiles {
  int lanes_log;            // of a block's threads, along the cells; the others are further channels
  int channels;             // of a block
  unsigned blocks, strips;  // of channels, and along the cells
};

// Blocks run from the last to the first: what the pass before read last may still be in the cache.
template <class S, int UP, bool kWide, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) nchw_map(Shape g, Map map, PlaneTiles t) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kBatch = 4;
  struct Shared {
    Row row[kThreads];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const int c0 = int(block % t.blocks) * t.channels, channels = min(t.channels, g.c - c0);
  const int strip = int(block / t.blocks % t.strips);
  const int64_t n = block / (t.blocks * t.strips);
  const int lanes = 1 << t.lanes_log, rows = kThreads >> t.lanes_log;
  const C cell(g, strip * lanes + int(threadIdx.x & (lanes - 1)));
  const int line = UP * g.w;  // of y
  const float* mask = map.mask ? map.mask + n * g.out_pixels : nullptr;
  float m[UP][kOut];
#pragma unroll
  for (int row = 0; row < UP; ++row)
    load_mask<kWide>(mask ? mask + cell.out + row * line : nullptr, cell.inside, m[row]);
  if (int(threadIdx.x) < channels)
    shared.row[threadIdx.x] = make_row(g, map.mean, map.var, map.gamma, map.beta, map.sums, n, c0 + threadIdx.x);
  __syncthreads();
  const int64_t plane = n * g.c + c0;
  const S* x_cell = static_cast<const S*>(map.x) + plane * g.pixels + cell.in;
  const S* dy_cell = static_cast<const S*>(map.dy) + plane * g.out_pixels + cell.out;
  S* to_cell = static_cast<S*>(map.to);
  to_cell += kBackward ? plane * g.pixels + cell.in : plane * g.out_pixels + cell.out;
  for (int j0 = threadIdx.x >> t.lanes_log; j0 < channels; j0 += kBatch * rows) {
    Pack<S, kIn> x[kBatch];
    Pack<S, kOut> dy[kBackward ? kBatch : 1][UP];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int j = j0 + b * rows;
      const bool inside = cell.inside && j < channels;
      x[b] = load<kIn, kWide>(x_cell + int64_t(j) * g.pixels, inside);
      if constexpr (kBackward)
#pragma unroll
        for (int row = 0; row < UP; ++row)
          dy[b][row] = load<kOut, kWide>(dy_cell + int64_t(j) * g.out_pixels + row * line, inside);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int j = j0 + b * rows;
      if (!cell.inside || j >= channels) break;
      const Row r = shared.row[j];
      float values[kIn], result[kBackward ? kIn : kOut];
      widen(x[b], values);
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < kIn; ++i) result[i] = -fmaf(point(r, 0, values[i]).xhat, r.k2, r.k1);
      }
#pragma unroll
      for (int row = 0; row < UP; ++row) {
        float gradient[kOut];
        if constexpr (kBackward) widen(dy[b][row], gradient);
#pragma unroll
        for (int i = 0; i < kOut; ++i) {
          const Point at = point(r, m[row][i], values[i / UP]);
          if constexpr (kBackward) {
            const float dz = through(gradient[i], at.z, g.slope), a = fmaf(r.gamma, m[row][i], 1);
            result[i / UP] = fmaf(dz, a, result[i / UP]);
          } else {
            result[i] = activated(at.z, g.slope);
          }
        }
        if constexpr (!kBackward)
          store<kWide>(to_cell + int64_t(j) * g.out_pixels + row * line, result);
      }
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < kIn; ++i) result[i] *= r.r;
        store<kWide>(to_cell + int64_t(j) * g.pixels, result);
      }
    }
  }
}

// --- Backward's sums -------------------------------------------------------------------------------------------

constexpr int kWarpChannels = 8;
constexpr int kBlockChannels = kWarps * kWarpChannels;

struct Reduce {
  const void *dy, *x;
  const float *gamma, *beta, *mask;
  const double *mean, *var;
  float4* partial;  // (n, c, parts)
  float* dmask;     // (blocks of channels, n, pixels), or null
  unsigned blocks, parts;
  int part_size;
};

// A block takes up to 64 channels over `part_size` strips of 32 cells of a sample. A warp owns 8 of the channels
// and a lane keeps their sums across the strips. dmask is summed over a warp's channels in registers, then over
// the warps through shared memory.
template <class S, int UP, bool kWide>
__global__ void __launch_bounds__(kThreads, 2) nchw_reduce(Shape g, Reduce a) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kBatch = UP == 1 ? 4 : 2, kPixels = 32 * UP * kOut;
  struct Shared {
    Row row[kBlockChannels];
    alignas(16) float dmask[2][kWarps][UP][32 * kOut];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const int block = int(blockIdx.x % a.blocks), part = int(blockIdx.x / a.blocks % a.parts);
  const int64_t n = blockIdx.x / (a.blocks * a.parts);
  const int c0 = block * kBlockChannels, channels = min(kBlockChannels, g.c - c0);
  if (int(threadIdx.x) < channels)
    shared.row[threadIdx.x] = make_row(g, a.mean, a.var, a.gamma, a.beta, nullptr, n, c0 + threadIdx.x);
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, line = UP * g.w;
  const int strips = (C::cells(g) + 31) / 32, end = min(strips, (part + 1) * a.part_size);
  const int64_t plane = n * g.c + c0;
  const S* first_x = static_cast<const S*>(a.x) + (plane + warp) * g.pixels;
  const S* first_dy = static_cast<const S*>(a.dy) + (plane + warp) * g.out_pixels;
  const int64_t x_step = int64_t(kWarps) * g.pixels, dy_step = int64_t(kWarps) * g.out_pixels;
  const float* mask = a.mask ? a.mask + n * g.out_pixels : nullptr;
  float sums[4 * kWarpChannels] = {};  // four of each of channels warp, warp + 8, ...
  for (int strip = part * a.part_size; strip < end; ++strip) {
    const C cell(g, strip * 32 + lane);
    float m[UP][kOut], dmask[UP][kOut] = {};
#pragma unroll
    for (int row = 0; row < UP; ++row)
      load_mask<kWide>(mask ? mask + cell.out + row * line : nullptr, cell.inside, m[row]);
#pragma unroll
    for (int first = 0; first < kWarpChannels; first += kBatch) {
      Pack<S, kIn> x[kBatch];
      Pack<S, kOut> dy[kBatch][UP];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const bool inside = cell.inside && warp + (first + b) * kWarps < channels;
        x[b] = load<kIn, kWide>(first_x + cell.in + (first + b) * x_step, inside);
#pragma unroll
        for (int row = 0; row < UP; ++row)
          dy[b][row] = load<kOut, kWide>(first_dy + cell.out + row * line + (first + b) * dy_step, inside);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int j = warp + (first + b) * kWarps;
        if (j < channels) {
          const Row r = shared.row[j];
          float values[kIn];
          widen(x[b], values);
#pragma unroll
          for (int row = 0; row < UP; ++row) {
            float gradient[kOut];  // 0 outside, so that nothing is added there
            widen(dy[b][row], gradient);
#pragma unroll
            for (int i = 0; i < kOut; ++i) {
              const Point at = point(r, m[row][i], values[i / UP]);
              const float dz = through(gradient[i], at.z, g.slope), dzm = dz * m[row][i];
              sums[4 * (first + b)] += dz;
              sums[4 * (first + b) + 1] = fmaf(dz, at.xhat, sums[4 * (first + b) + 1]);
              sums[4 * (first + b) + 2] += dzm;
              sums[4 * (first + b) + 3] = fmaf(dzm, at.xhat, sums[4 * (first + b) + 3]);
              dmask[row][i] = fmaf(dz, at.inner, dmask[row][i]);
            }
          }
        }
      }
    }
    if (a.dmask) {
      auto& buffer = shared.dmask[strip % 2];  // two, so that one barrier a strip does
#pragma unroll
      for (int row = 0; row < UP; ++row)
#pragma unroll
        for (int i = 0; i < kOut; ++i) buffer[warp][row][lane * kOut + i] = dmask[row][i];
      __syncthreads();
      for (int i = threadIdx.x; i < kPixels; i += kThreads) {
        const int row = i / (32 * kOut), column = i % (32 * kOut);
        const C other(g, strip * 32 + column / kOut);
        if (!other.inside) continue;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += buffer[w][row][column];
        a.dmask[(block * g.n + n) * g.out_pixels + other.out + row * line + column % kOut] = sum;
      }
    }
  }
  const float sum = lane_sum<16>(sums);
  const int j = warp + lane / 4 * kWarps;
  if (j < channels) reinterpret_cast<float*>(a.partial + (plane + j) * a.parts + part)[lane % 4] = sum;
}

}  // namespace gpu
}  // namespace t2ilayers
