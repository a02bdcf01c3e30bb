// Channels last. A thread takes 16 bytes of a pixel's channels and walks over pixels; `1 << lanes_log` threads
// beside each other, at most a warp, take neighbouring channels, and a block's other threads other pixels.
#pragma once
#include "planes.cuh"

namespace t2ilayers {
namespace gpu {

struct PixelTiles {
  int lanes_log;
  unsigned blocks, parts;  // of channels, and along a sample's pixels
  int64_t part_size;       // pixels of each
};

// The thread's place in a block.
struct PixelThread {
  int lanes, lane, row, rows;
  T2ILAYERS_DEVICE explicit PixelThread(int lanes_log)
      : lanes(1 << lanes_log),
        lane(threadIdx.x & (lanes - 1)),
        row(threadIdx.x >> lanes_log),
        rows(kThreads >> lanes_log) {}
};

// --- Statistics ------------------------------------------------------------------------------------------------

struct PixelStatistics {
  int64_t pixels;  // of a sample, or of all where statistics are the batch's: then there is but one sample
  int c;
  double *mean, *var;        // not null: one part, a statistic a channel, nothing left to merge
  Moments<double>* partial;  // (samples, parts, c)
};

template <class S, bool kWide>
__global__ void __launch_bounds__(kThreads) nhwc_statistics(const S* x, PixelStatistics a, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kBatch = 4;
  struct Shared {
    float base[32 * V];
    Moments<float> warp[kWarps][32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const int c = (int(blockIdx.x % t.blocks) * me.lanes + me.lane) * V;
  const int64_t part = blockIdx.x / t.blocks % t.parts, sample = blockIdx.x / (t.blocks * t.parts);
  const int64_t end = min(a.pixels, (part + 1) * t.part_size);
  Shifted mine[V] = {};
  float rows = 0;  // whose count all of `mine` have
  for (int64_t p = part * t.part_size + me.row; p < end; p += kBatch * me.rows) {
    Pack<S, V> packs[kBatch];
    int batch = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t pixel = p + b * me.rows;
      packs[b] = load<V, kWide>(x + (sample * a.pixels + pixel) * a.c + c, pixel < end && c < a.c);
      batch += pixel < end;
    }
    if (rows == 0) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        float values[V];
        widen(packs[b], values);
#pragma unroll
        for (int i = 0; i < V; ++i) mine[i].shift += values[i];  // those outside are 0
      }
#pragma unroll
      for (int i = 0; i < V; ++i) mine[i].shift /= batch;
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float values[V];
      widen(packs[b], values);
      if (b >= batch) break;
#pragma unroll
      for (int i = 0; i < V; ++i) mine[i].add(values[i]);
    }
    rows += batch;
  }
  if (me.row == 0)
#pragma unroll
    for (int i = 0; i < V; ++i) shared.base[me.lane * V + i] = mine[i].shift;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    mine[i].count = rows;
    Moments<float> moments = mine[i].moments(shared.base[me.lane * V + i]);
    merge_lanes(moments, me.lanes);
    if (int(threadIdx.x % 32) < me.lanes) shared.warp[threadIdx.x / 32][me.lane * V + i] = moments;
  }
  __syncthreads();
  const int column = threadIdx.x, channel = int(blockIdx.x % t.blocks) * me.lanes * V + column;
  if (column >= me.lanes * V || channel >= a.c) return;
  Moments<float> all = shared.warp[0][column];
  for (int warp = 1; warp < kWarps; ++warp) all.merge(shared.warp[warp][column]);
  const double mean = double(shared.base[column]) + all.mean;
  if (a.mean) {
    a.mean[sample * a.c + channel] = mean;
    a.var[sample * a.c + channel] = all.count > 0 ? double(all.m2) / all.count : 0;
  } else {
    a.partial[(sample * t.parts + part) * a.c + channel] = {all.count, mean, all.m2};
  }
}

// --- The passes over whole maps --------------------------------------------------------------------------------

// Of the UP * UP pixels of y that come from pixel p of x.
template <int UP>
T2ILAYERS_DEVICE int child(const Shape& g, int p, int q) {
  if (UP == 1) return p;
  const int line = p / g.w, column = p - line * g.w;
  return (2 * line + q / 2) * 2 * g.w + 2 * column + q % 2;
}

// y from x, or dx from dy and x. Blocks run from the last to the first, as in nchw_map.
template <class S, int UP, bool kWide, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) nhwc_map(Shape g, Map map, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kBatch = UP == 1 ? 4 : 1, kChildren = UP * UP;
  struct Shared {
    Row row[32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const int c0 = int(block % t.blocks) * me.lanes * V, c = c0 + me.lane * V;
  const int part = int(block / t.blocks % t.parts);
  const int64_t n = block / (t.blocks * t.parts);
  const int channels = min(me.lanes * V, g.c - c0);
  if (int(threadIdx.x) < channels)
    shared.row[threadIdx.x] = make_row(g, map.mean, map.var, map.gamma, map.beta, map.sums, n, c0 + threadIdx.x);
  __syncthreads();
  Row row[V];
#pragma unroll
  for (int i = 0; i < V; ++i) row[i] = shared.row[min(me.lane * V + i, channels - 1)];
  const S* x = static_cast<const S*>(map.x) + n * g.pixels * g.c + c;
  const S* dy = static_cast<const S*>(map.dy) + n * g.out_pixels * g.c + c;
  S* to = static_cast<S*>(map.to) + n * (kBackward ? g.pixels : g.out_pixels) * g.c + c;
  const float* mask = map.mask ? map.mask + n * g.out_pixels : nullptr;
  const int end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  for (int p0 = int(part * t.part_size) + me.row; p0 < end; p0 += kBatch * me.rows) {
    Pack<S, V> xs[kBatch], dys[kBatch][kChildren];
    float m[kBatch][kChildren];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      const bool inside = p < end && c < g.c;
      xs[b] = load<V, kWide>(x + int64_t(p) * g.c, inside);
#pragma unroll
      for (int q = 0; q < kChildren; ++q) {
        const int pixel = child<UP>(g, p, q);
        m[b][q] = mask && p < end ? __ldg(mask + pixel) : 1;
        if constexpr (kBackward) dys[b][q] = load<V, kWide>(dy + int64_t(pixel) * g.c, inside);
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      if (p >= end || c >= g.c) break;
      float values[V], result[V];
      widen(xs[b], values);
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < V; ++i) result[i] = -fmaf(point(row[i], 0, values[i]).xhat, row[i].k2, row[i].k1);
      }
#pragma unroll
      for (int q = 0; q < kChildren; ++q) {
        float gradient[V];
        if constexpr (kBackward) widen(dys[b][q], gradient);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const Point at = point(row[i], m[b][q], values[i]);
          if constexpr (kBackward) {
            const float dz = through(gradient[i], at.z, g.slope), a = fmaf(row[i].gamma, m[b][q], 1);
            result[i] = fmaf(dz, a, result[i]);
          } else {
            result[i] = activated(at.z, g.slope);
          }
        }
        if constexpr (!kBackward) store<kWide>(to + int64_t(child<UP>(g, p, q)) * g.c, result);
      }
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < V; ++i) result[i] *= row[i].r;
        store<kWide>(to + int64_t(p) * g.c, result);
      }
    }
  }
}

// A thread keeps its channels' sums over its pixels. A pixel's dmask is summed over the thread's channels, then
// over the lanes beside it.
template <class S, int UP, bool kWide>
__global__ void __launch_bounds__(kThreads, 2) nhwc_reduce(Shape g, Reduce a, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kChildren = UP * UP, kBatch = UP == 2 ? 1 : sizeof(S) == 4 ? 4 : 2;
  struct Shared {
    Row row[32 * V];
    float4 sums[kWarps][32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const int block = int(blockIdx.x % t.blocks), part = int(blockIdx.x / t.blocks % t.parts);
  const int64_t n = blockIdx.x / (t.blocks * t.parts);
  const int c0 = block * me.lanes * V, c = c0 + me.lane * V;
  const int channels = min(me.lanes * V, g.c - c0);
  if (int(threadIdx.x) < channels)
    shared.row[threadIdx.x] = make_row(g, a.mean, a.var, a.gamma, a.beta, nullptr, n, c0 + threadIdx.x);
  __syncthreads();
  Row row[V];
#pragma unroll
  for (int i = 0; i < V; ++i) row[i] = shared.row[min(me.lane * V + i, channels - 1)];
  const S* x = static_cast<const S*>(a.x) + n * g.pixels * g.c + c;
  const S* dy = static_cast<const S*>(a.dy) + n * g.out_pixels * g.c + c;
  const float* mask = a.mask ? a.mask + n * g.out_pixels : nullptr;
  const int first = int(part * t.part_size), end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  float sums[V][4] = {};
  for (int p0 = first; p0 < end; p0 += kBatch * me.rows) {  // all of a warp: its lanes add up dmask together
    Pack<S, V> xs[kBatch], dys[kBatch][kChildren];
    float m[kBatch][kChildren];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + me.row + b * me.rows;
      const bool inside = p < end && c < g.c;
      xs[b] = load<V, kWide>(x + int64_t(p) * g.c, inside);
#pragma unroll
      for (int q = 0; q < kChildren; ++q) {
        const int pixel = child<UP>(g, p, q);
        m[b][q] = mask && p < end ? __ldg(mask + pixel) : 1;
        dys[b][q] = load<V, kWide>(dy + int64_t(pixel) * g.c, inside);
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + me.row + b * me.rows;
      float values[V];
      widen(xs[b], values);
#pragma unroll
      for (int q = 0; q < kChildren; ++q) {
        float gradient[V], dmask = 0;  // gradients are 0 outside, so that nothing is added there
        widen(dys[b][q], gradient);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const Point at = point(row[i], m[b][q], values[i]);
          const float dz = through(gradient[i], at.z, g.slope), dzm = dz * m[b][q];
          sums[i][0] += dz;
          sums[i][1] = fmaf(dz, at.xhat, sums[i][1]);
          sums[i][2] += dzm;
          sums[i][3] = fmaf(dzm, at.xhat, sums[i][3]);
          dmask = fmaf(dz, at.inner, dmask);
        }
        if (a.dmask) {
          for (int offset = me.lanes / 2; offset > 0; offset /= 2)
            dmask += __shfl_xor_sync(kAllLanes, dmask, offset);
          if (me.lane == 0 && p < end)
            a.dmask[(block * g.n + n) * g.out_pixels + child<UP>(g, p, q)] = dmask;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    for (int offset = me.lanes; offset < 32; offset *= 2)
#pragma unroll
      for (int s = 0; s < 4; ++s) sums[i][s] += __shfl_xor_sync(kAllLanes, sums[i][s], offset);
    if (int(threadIdx.x % 32) < me.lanes)
      shared.sums[threadIdx.x / 32][me.lane * V + i] = float4{sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
  }
  __syncthreads();
  if (int(threadIdx.x) >= channels) return;
  float4 all = shared.sums[0][threadIdx.x];
  for (int warp = 1; warp < kWarps; ++warp) {
    const float4 other = shared.sums[warp][threadIdx.x];
    all.x += other.x, all.y += other.y, all.z += other.z, all.w += other.w;
  }
  a.partial[(n * g.c + c0 + int(threadIdx.x)) * t.parts + part] = all;
}

}  // namespace gpu
}  // namespace t2ilayers
