// Channels last. A thread takes 16 bytes of a pixel's channels and walks over pixels; `1 << lanes_log` threads
// beside each other, at most a warp, take neighbouring channels, and a block's other threads other pixels.
#pragma once
#include "formula.cuh"
#include "sums.cuh"

namespace t2ilayers {
namespace gpu {

struct PixelTiles {
  int lanes_log;
  unsigned blocks, parts;  // of channels, and along a sample's pixels
  int64_t part_size;       // pixels of each
};

// The thread's place in a block. Where lanes share values by way of memory, value i of theirs is in slot(i): lanes
// beside each other meet no bank twice.
struct PixelThread {
  int lanes_log, lanes, lane, row, rows;
  T2ILAYERS_DEVICE explicit PixelThread(int lanes_log)
      : lanes_log(lanes_log),
        lanes(1 << lanes_log),
        lane(threadIdx.x & (lanes - 1)),
        row(threadIdx.x >> lanes_log),
        rows(kThreads >> lanes_log) {}
  T2ILAYERS_DEVICE int slot(int i) const { return (i << lanes_log) + lane; }
  // Of the block's channels the one in a slot, where each lane has V.
  T2ILAYERS_DEVICE int channel(int slot, int V) const { return (slot & (lanes - 1)) * V + (slot >> lanes_log); }
};

// --- Statistics ------------------------------------------------------------------------------------------------

struct PixelStatistics {
  int64_t pixels;  // of a sample, or of all where statistics are the batch's: then there is but one sample
  int c;
  bool direct;  // one part, a statistic a channel: nothing left to merge
  Results results;
  Moments<double>* partial;  // (samples, parts, c)
};

template <class S, bool kWide>
__global__ void __launch_bounds__(kThreads) pixels_statistics(const S* x, PixelStatistics a, PixelTiles t) {
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
    for (int i = 0; i < V; ++i) shared.base[me.slot(i)] = mine[i].shift;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    mine[i].count = rows;
    Moments<float> moments = mine[i].moments(shared.base[me.slot(i)]);
    merge_lanes(moments, me.lanes);
    if (int(threadIdx.x % 32) < me.lanes) shared.warp[threadIdx.x / 32][me.slot(i)] = moments;
  }
  __syncthreads();
  const int slot = threadIdx.x;
  const int channel = int(blockIdx.x % t.blocks) * me.lanes * V + me.channel(slot, V);
  if (slot >= me.lanes * V || channel >= a.c) return;
  Moments<float> all = shared.warp[0][slot];
  for (int warp = 1; warp < kWarps; ++warp) merge(all, shared.warp[warp][slot]);
  const Moments<double> found{all.count, double(shared.base[slot]) + all.mean, all.m2};
  if (a.direct)
    keep(a.results, sample * a.c + channel, found);
  else
    a.partial[(sample * t.parts + part) * a.c + channel] = found;
}

// --- The passes over whole maps --------------------------------------------------------------------------------

// Of the UP * UP pixels of y that come from pixel p of x.
template <int UP>
T2ILAYERS_DEVICE int child(const Shape& g, int p, int q) {
  if (UP == 1) return p;
  const int line = p / g.w, column = p - line * g.w;
  return (2 * line + q / 2) * 2 * g.w + 2 * column + q % 2;
}

// The rows of a block's channels, in the slots of their lanes. All slots are filled.
template <int V, int N>
T2ILAYERS_DEVICE void share_rows(const Shape& g, const Inputs& in, const PixelThread& me, int64_t n, int c0,
                                 Rows<N>& rows) {
  if (int(threadIdx.x) < me.lanes * V)
    rows.put(threadIdx.x, make_row(g, in, n, min(c0 + me.channel(threadIdx.x, V), g.c - 1)));
  __syncthreads();
}

// Mask values as they lie in memory, of kBatch pixels of x `step` apart and their children: to be widened once the
// maps' loads are on their way too. The type is asked for once, so that all of them go out together.
template <int UP, int kBatch>
T2ILAYERS_DEVICE void load_masks(const Shape& g, const void* mask, int64_t n, int p0, int step, int end,
                                 uint32_t (&to)[kBatch][UP * UP]) {
  const auto each = [&](auto load_one) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int q = 0; q < UP * UP; ++q) {
        const int p = p0 + b * step;
        to[b][q] = mask && p < end ? load_one(n * g.out_pixels + child<UP>(g, p, q)) : 0;
      }
  };
  if (g.mask_type == DType::f32)
    each([&](int64_t at) { return __float_as_uint(__ldg(static_cast<const float*>(mask) + at)); });
  else if (g.mask_type == DType::f64)
    each([&](int64_t at) { return __float_as_uint(read(mask, DType::f64, at)); });
  else
    each([&](int64_t at) { return uint32_t(__ldg(static_cast<const uint16_t*>(mask) + at)); });
}

// Or one.
T2ILAYERS_DEVICE float widen_mask(uint32_t bits, const void* mask, DType type) {
  const float plain = __uint_as_float(type == DType::bf16 ? bits << 16 : bits);
  return !mask ? 1 : type == DType::f16 ? unpack(bits, Half{}).x : plain;
}

// y from x, or dx from dy and x. Blocks run from the last to the first, as in planes_apply.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) pixels_apply(Shape g, Inputs in, void* result, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kBatch = UP == 1 ? 4 : 1, kChildren = UP * UP;
  struct Shared {
    Rows<32 * V> rows;
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const int c0 = int(block % t.blocks) * me.lanes * V, c = c0 + me.lane * V;
  const int part = int(block / t.blocks % t.parts);
  const int64_t n = block / (t.blocks * t.parts);
  share_rows<V>(g, in, me, n, c0, shared.rows);
  Row row[V];
#pragma unroll
  for (int i = 0; i < V; ++i) row[i] = shared.rows.get(me.slot(i));
  const S* x = static_cast<const S*>(in.x) + n * g.pixels * g.c + c;
  const S* dy = static_cast<const S*>(in.dy) + n * g.out_pixels * g.c + c;
  S* to = static_cast<S*>(result) + n * (kBackward ? g.pixels : g.out_pixels) * g.c + c;
  const int end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  for (int p0 = int(part * t.part_size) + me.row; p0 < end; p0 += kBatch * me.rows) {
    Pack<S, V> xs[kBatch], dys[kBatch][kChildren];
    uint32_t masks[kBatch][kChildren];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      const bool inside = p < end && c < g.c;
      xs[b] = load<V, kWide>(x + int64_t(p) * g.c, inside);
      if constexpr (kBackward)
#pragma unroll
        for (int q = 0; q < kChildren; ++q)
          dys[b][q] = load<V, kWide>(dy + int64_t(child<UP>(g, p, q)) * g.c, inside);
    }
    load_masks<UP>(g, in.mask, n, p0, me.rows, end, masks);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      if (p >= end || c >= g.c) break;
      float values[V], dx[V];
      widen(xs[b], values);
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < V; ++i)
          dx[i] = in.sums ? -fmaf(normalized(row[i], values[i]), row[i].k2, row[i].k1) : 0;
      }
#pragma unroll
      for (int q = 0; q < kChildren; ++q) {
        const float m = widen_mask(masks[b][q], in.mask, g.mask_type);
        float mine[V];  // of dy, or of y
        if constexpr (kBackward) widen(dys[b][q], mine);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const Point at = point(g, row[i], m, values[i]);
          if constexpr (kBackward)
            dx[i] = fmaf(through<kSilu>(g, at.z, mine[i]), at.a, dx[i]);
          else
            mine[i] = activated<kSilu>(g, at.z);
        }
        if constexpr (!kBackward) store<kWide>(to + int64_t(child<UP>(g, p, q)) * g.c, mine);
      }
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < V; ++i) dx[i] *= row[i].rstd;
        store<kWide>(to + int64_t(p) * g.c, dx);
      }
    }
  }
}

// Sums over the `lanes` beside each other, at least four: lane i of them gets that of values[i % 4].
T2ILAYERS_DEVICE float sum_of_four(float (&values)[4], int lanes) {
  float sum = lane_sum<2>(values);
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2)
    if (offset < lanes) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  return sum;
}

// A thread keeps its channels' sums over its pixels. The four dmasks of an iteration, of pixels or of children, are
// summed over the thread's channels, then over the lanes beside it, all of them together.
template <class S, int UP, bool kWide, bool kSilu, bool kInput>
__global__ void __launch_bounds__(kThreads, 2) pixels_reduce(Shape g, Inputs in, Reduce a, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kChildren = UP * UP, kBatch = 4 / kChildren;
  struct Shared {
    Rows<32 * V> rows;
    float4 sums[kWarps][32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const int block = int(blockIdx.x % t.blocks), part = int(blockIdx.x / t.blocks % t.parts);
  const int64_t n = blockIdx.x / (t.blocks * t.parts);
  const int c0 = block * me.lanes * V, c = c0 + me.lane * V;
  share_rows<V>(g, in, me, n, c0, shared.rows);
  const S* x = static_cast<const S*>(in.x) + n * g.pixels * g.c + c;
  const S* dy = static_cast<const S*>(in.dy) + n * g.out_pixels * g.c + c;
  const int first = int(part * t.part_size), end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  float sums[V][4] = {};
  for (int p0 = first; p0 < end; p0 += kBatch * me.rows) {  // all of a warp: its lanes add up dmask together
    Pack<S, V> xs[kBatch], dys[kBatch][kChildren];
    uint32_t masks[kBatch][kChildren];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + me.row + b * me.rows;
      const bool inside = p < end && c < g.c;
      xs[b] = load<V, kWide>(x + int64_t(p) * g.c, inside);
#pragma unroll
      for (int q = 0; q < kChildren; ++q)
        dys[b][q] = load<V, kWide>(dy + int64_t(child<UP>(g, p, q)) * g.c, inside);
    }
    load_masks<UP>(g, in.mask, n, p0 + me.row, me.rows, end, masks);
    float m[kBatch][kChildren], dmask[4] = {};
#pragma unroll
    for (int v = 0; v < 4; ++v)
      m[v / kChildren][v % kChildren] = widen_mask(masks[v / kChildren][v % kChildren], in.mask, g.mask_type);
    float dx[kBatch][V] = {};
    T2ILAYERS_FENCE;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Row row = shared.rows.get(me.slot(i));  // registers do not hold those of all channels
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int q = 0; q < kChildren; ++q) {
          const Point at = point(g, row, m[b][q], value(xs[b], i));
          const float dy_i = value(dys[b][q], i);  // 0 outside, so that nothing is added there
          const float dz = through<kSilu>(g, at.z, dy_i), dzm = dz * m[b][q];
          sums[i][0] += dz;
          sums[i][1] = fmaf(dz, at.xhat, sums[i][1]);
          sums[i][2] += dzm;
          sums[i][3] = fmaf(dzm, at.xhat, sums[i][3]);
          dmask[b * kChildren + q] = fmaf(dz, by_mask(g, row, at.xhat), dmask[b * kChildren + q]);
          if constexpr (kInput) dx[b][i] = fmaf(dz, at.a, dx[b][i]);
        }
        dx[b][i] *= row.rstd;
      }
    }
    if constexpr (kInput) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int p = p0 + me.row + b * me.rows;
        if (p < end && c < g.c) store<kWide>(static_cast<S*>(a.dx) + (n * g.pixels + p) * g.c + c, dx[b]);
      }
    }
    if (a.dmask) {
      const float sum = sum_of_four(dmask, me.lanes);
      const int p = p0 + me.row + me.lane / kChildren * me.rows;
      if (me.lane < 4 && p < end)
        write(a.dmask, a.dmask_type, (block * g.n + n) * g.out_pixels + child<UP>(g, p, me.lane % kChildren), sum);
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    for (int offset = me.lanes; offset < 32; offset *= 2)
#pragma unroll
      for (int s = 0; s < 4; ++s) sums[i][s] += __shfl_xor_sync(kAllLanes, sums[i][s], offset);
    if (int(threadIdx.x % 32) < me.lanes)
      shared.sums[threadIdx.x / 32][me.slot(i)] = float4{sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
  }
  __syncthreads();
  const int slot = threadIdx.x, channel = c0 + me.channel(slot, V);
  if (slot >= me.lanes * V || channel >= g.c) return;
  float4 all = shared.sums[0][slot];
  for (int warp = 1; warp < kWarps; ++warp) {
    const float4 other = shared.sums[warp][slot];
    all.x += other.x, all.y += other.y, all.z += other.z, all.w += other.w;
  }
  a.partial[(n * g.c + channel) * t.parts + part] = all;
}

}  // namespace gpu
}  // namespace t2ilayers
