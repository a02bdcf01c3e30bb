// Two or three act(gamma x + beta) in a row, in one pass forward and one backward. Upsampling commutes with them, so
// all is computed once a pixel of x; backward adds up the gradients of its copies first.
#pragma once
#include "pixels.cuh"
#include "planes.cuh"

namespace t2ilayers {
namespace gpu {

constexpr int kPairs = int(kMostPairs);

struct ChainPass {
  const void *dy, *x;
  const void *gamma, *beta;  // (pairs, n, c)
  int pairs;
  void* to;        // y; or dx, or null
  float* partial;  // (n c, parts, 2 pairs): sums for gamma and beta of each pair
  unsigned parts;
  int part_size;   // cells of a plane, or pixels
};

// The pairs of a sample's channel.
struct Links {
  float2 pair[kPairs];
};

T2ILAYERS_DEVICE Links make_links(const Shape& g, const ChainPass& a, int64_t n, int c) {
  Links links{};
#pragma unroll
  for (int p = 0; p < kPairs; ++p)
    if (p < a.pairs) {
      const int64_t i = (p * g.n + n) * g.c + c;
      links.pair[p] = float2{read(a.gamma, g.gamma_type, i), read(a.beta, g.beta_type, i)};
    }
  return links;
}

template <bool kSilu>
T2ILAYERS_DEVICE float chained(const Shape& g, const Links& links, int pairs, float x) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p)
    if (p < pairs) x = activated<kSilu>(g, fmaf(links.pair[p].x, x, links.pair[p].y));
  return x;
}

// The gradient by x from d, that by the result; adds to the sums for each gamma and beta.
template <bool kSilu>
T2ILAYERS_DEVICE float unchained(const Shape& g, const Links& links, int pairs, float x, float d,
                                 float (&sums)[2 * kPairs]) {
  float before[kPairs], z[kPairs];
#pragma unroll
  for (int p = 0; p < kPairs; ++p)
    if (p < pairs) {
      before[p] = x;
      z[p] = fmaf(links.pair[p].x, x, links.pair[p].y);
      x = activated<kSilu>(g, z[p]);
    }
#pragma unroll
  for (int p = kPairs - 1; p >= 0; --p)
    if (p < pairs) {
      const float dz = through<kSilu>(g, z[p], d);
      sums[2 * p] = fmaf(dz, before[p], sums[2 * p]);
      sums[2 * p + 1] += dz;
      d = dz * links.pair[p].x;
    }
  return d;
}

// A warp takes a part of a plane.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) planes_chain(Shape g, ChainPass a) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kBatch = 4, kLines = kBackward ? UP : 1;
  const int64_t task = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, plane = task / a.parts;
  if (plane >= g.n * g.c) return;
  const int part = int(task - plane * a.parts), lane = threadIdx.x % 32, line = UP * g.w;
  const int end = min(C::cells(g), (part + 1) * a.part_size);
  const Links links = make_links(g, a, plane / g.c, int(plane % g.c));
  const S* x = static_cast<const S*>(a.x) + plane * g.pixels;
  const S* dy = static_cast<const S*>(a.dy) + plane * g.out_pixels;
  S* to = static_cast<S*>(a.to) + plane * (kBackward ? g.pixels : g.out_pixels);
  float sums[2 * kPairs] = {};
  for (int first = part * a.part_size + lane; first < end; first += 32 * kBatch) {
    Pack<S, kIn> xs[kBatch];
    Pack<S, kOut> dys[kBatch][kLines];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const C cell(g, first + 32 * b);
      const bool inside = first + 32 * b < end;
      xs[b] = load<kIn, kWide>(x + cell.in, inside);
      if constexpr (kBackward)
#pragma unroll
        for (int row = 0; row < UP; ++row) dys[b][row] = load<kOut, kWide>(dy + cell.out + row * line, inside);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const C cell(g, first + 32 * b);
      if (first + 32 * b >= end) break;
      if constexpr (kBackward) {
        float dx[kIn] = {};
#pragma unroll
        for (int row = 0; row < UP; ++row)
#pragma unroll
          for (int i = 0; i < kOut; ++i) dx[i / UP] += value(dys[b][row], i);
#pragma unroll
        for (int i = 0; i < kIn; ++i) dx[i] = unchained<kSilu>(g, links, a.pairs, value(xs[b], i), dx[i], sums);
        if (a.to) store<kWide>(to + cell.in, dx);
      } else {
        float y[kOut];
#pragma unroll
        for (int i = 0; i < kOut; i += UP) y[i] = chained<kSilu>(g, links, a.pairs, value(xs[b], i / UP));
#pragma unroll
        for (int i = 0; i < kOut; ++i) y[i] = y[i / UP * UP];
#pragma unroll
        for (int row = 0; row < UP; ++row) store<kWide>(to + cell.out + row * line, y);
      }
    }
  }
  if constexpr (kBackward) {
    if (!a.partial) return;
#pragma unroll
    for (int s = 0; s < 2 * kPairs; ++s) {
      const float sum = warp_sum(sums[s]);
      if (lane == 0 && s < 2 * a.pairs) a.partial[task * (2 * a.pairs) + s] = sum;
    }
  }
}

// As the passes of pixels.cuh. Registers do not hold the links of all of a thread's channels.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) pixels_chain(Shape g, ChainPass a, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kChildren = UP * UP, kGradients = kBackward ? kChildren : 1;
  constexpr int kBatch = UP == 2 ? 1 : kBackward && sizeof(S) == 2 ? 2 : 4;
  struct Shared {
    float2 pair[kPairs][32 * V];
    float sums[kWarps][32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const int block = int(blockIdx.x % t.blocks), part = int(blockIdx.x / t.blocks % t.parts);
  const int64_t n = blockIdx.x / (t.blocks * t.parts);
  const int c0 = block * me.lanes * V, c = c0 + me.lane * V, slot = threadIdx.x;
  if (slot < me.lanes * V) {
    const Links links = make_links(g, a, n, min(c0 + me.channel(slot, V), g.c - 1));
#pragma unroll
    for (int p = 0; p < kPairs; ++p) shared.pair[p][slot] = links.pair[p];
  }
  __syncthreads();
  const S* x = static_cast<const S*>(a.x) + n * g.pixels * g.c + c;
  const S* dy = static_cast<const S*>(a.dy) + n * g.out_pixels * g.c + c;
  S* to = static_cast<S*>(a.to) + n * (kBackward ? g.pixels : g.out_pixels) * g.c + c;
  const int end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  float sums[V][2 * kPairs] = {};
  for (int p0 = int(part * t.part_size) + me.row; p0 < end; p0 += kBatch * me.rows) {
    Pack<S, V> xs[kBatch], dys[kBatch][kGradients];
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
    float result[kBatch][V];
    T2ILAYERS_FENCE;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      Links links;
#pragma unroll
      for (int p = 0; p < kPairs; ++p) links.pair[p] = shared.pair[p][me.slot(i)];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if constexpr (kBackward) {
          float d = 0;
#pragma unroll
          for (int q = 0; q < kChildren; ++q) d += value(dys[b][q], i);
          result[b][i] = unchained<kSilu>(g, links, a.pairs, value(xs[b], i), d, sums[i]);
        } else {
          result[b][i] = chained<kSilu>(g, links, a.pairs, value(xs[b], i));
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      if (p >= end || c >= g.c || !a.to) break;
      if constexpr (kBackward) {
        store<kWide>(to + int64_t(p) * g.c, result[b]);
      } else {
#pragma unroll
        for (int q = 0; q < kChildren; ++q) store<kWide>(to + int64_t(child<UP>(g, p, q)) * g.c, result[b]);
      }
    }
  }
  if constexpr (kBackward) {
    if (!a.partial) return;
    const int channel = c0 + me.channel(slot, V);
#pragma unroll
    for (int s = 0; s < 2 * kPairs; ++s) {
      if (s >= 2 * a.pairs) break;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        float sum = sums[i][s];
        for (int offset = me.lanes; offset < 32; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
        if (int(threadIdx.x % 32) < me.lanes) shared.sums[threadIdx.x / 32][me.slot(i)] = sum;
      }
      __syncthreads();
      if (slot < me.lanes * V && channel < g.c) {
        float sum = 0;
        for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[warp][slot];
        a.partial[((n * g.c + channel) * a.parts + part) * (2 * a.pairs) + s] = sum;
      }
      __syncthreads();
    }
  }
}

}  // namespace gpu
}  // namespace t2ilayers
