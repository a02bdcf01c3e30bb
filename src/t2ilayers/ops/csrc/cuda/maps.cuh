// Where gamma and beta are maps as large as y, in its layout and type, without a mask (SPADE): no sums but those of the
// statistics, and gradients of the parameters that are elementwise too.
#pragma once
#include "pixels.cuh"
#include "planes.cuh"

namespace t2ilayers {
namespace gpu {

// Forward: y. Backward, what is not null of the gradients; `partial` has (s1, s2, 0, 0).
struct MapsPass {
  const void *gamma, *beta;
  void* y;
  void *dgamma, *dbeta, *dx;
  float4* partial;  // (n c, parts)
  unsigned parts;
  int part_size;  // cells of a plane, or pixels
};

// A line of y, or of the gradients: V values of a channel or of neighbours.
template <class S, int V>
struct MapsLine {
  Pack<S, V> gamma, beta, dy;
};

// y in the place of `gamma`; or dz xhat and dz in the places of `gamma` and `beta`, and dz a added to `dxhat`.
template <bool kSilu, bool kBackward>
T2ILAYERS_DEVICE void maps_point(const Shape& g, Row row, float x, float dy, float& gamma, float& beta, float& dxhat,
                                 float (&sums)[2]) {
  row.gamma = gamma, row.beta = beta;
  const Point at = point(g, row, 1, x);
  if constexpr (kBackward) {
    const float dz = through<kSilu>(g, at.z, dy), d = dz * at.a;
    gamma = dz * at.xhat, beta = dz;
    dxhat += d;
    sums[0] += d;
    sums[1] = fmaf(d, at.xhat, sums[1]);
  } else {
    gamma = activated<kSilu>(g, at.z);
  }
}

// What dx starts from.
T2ILAYERS_DEVICE float centred(const Inputs& in, const Row& row, float x) {
  return in.sums ? -fmaf(normalized(row, x), row.k2, row.k1) : 0;
}

// A warp takes a part of a plane.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) planes_maps(Shape g, Inputs in, MapsPass a) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kBatch = 4 / UP / (kBackward ? 2 : 1);
  const int64_t task = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, plane = task / a.parts;
  if (plane >= g.n * g.c) return;
  const int part = int(task - plane * a.parts), lane = threadIdx.x % 32, line = UP * g.w;
  const int end = min(C::cells(g), (part + 1) * a.part_size);
  const Row row = make_row(g, in, plane / g.c, int(plane % g.c));
  const int64_t low = plane * g.pixels, high = plane * g.out_pixels;
  const S* x = static_cast<const S*>(in.x) + low;
  float sums[2] = {};
  for (int first = part * a.part_size + lane; first < end; first += 32 * kBatch) {
    Pack<S, kIn> xs[kBatch];
    MapsLine<S, kOut> lines[kBatch][UP];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const C cell(g, first + 32 * b);
      const bool inside = first + 32 * b < end;
      xs[b] = load<kIn, kWide>(x + cell.in, inside);
#pragma unroll
      for (int r = 0; r < UP; ++r) {
        const int64_t at = high + cell.out + r * line;
        lines[b][r].gamma = load<kOut, kWide>(static_cast<const S*>(a.gamma) + at, inside);
        lines[b][r].beta = load<kOut, kWide>(static_cast<const S*>(a.beta) + at, inside);
        if constexpr (kBackward) lines[b][r].dy = load<kOut, kWide>(static_cast<const S*>(in.dy) + at, inside);
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const C cell(g, first + 32 * b);
      if (first + 32 * b >= end) break;
      float values[kIn], dx[kIn];
      widen(xs[b], values);
#pragma unroll
      for (int i = 0; i < kIn; ++i) dx[i] = kBackward ? centred(in, row, values[i]) : 0;
#pragma unroll
      for (int r = 0; r < UP; ++r) {
        float gamma[kOut], beta[kOut];
        widen(lines[b][r].gamma, gamma);
        widen(lines[b][r].beta, beta);
#pragma unroll
        for (int i = 0; i < kOut; ++i)
          maps_point<kSilu, kBackward>(g, row, values[i / UP], kBackward ? value(lines[b][r].dy, i) : 0, gamma[i],
                                       beta[i], dx[i / UP], sums);
        const int64_t at = high + cell.out + r * line;
        if constexpr (kBackward) {
          if (a.dgamma) {
            store<kWide>(static_cast<S*>(a.dgamma) + at, gamma);
            store<kWide>(static_cast<S*>(a.dbeta) + at, beta);
          }
        } else {
          store<kWide>(static_cast<S*>(a.y) + at, gamma);
        }
      }
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < kIn; ++i) dx[i] *= row.rstd;
        if (a.dx) store<kWide>(static_cast<S*>(a.dx) + low + cell.in, dx);
      }
    }
  }
  if constexpr (kBackward) {
    if (!a.partial) return;
    const float s1 = warp_sum(sums[0]), s2 = warp_sum(sums[1]);
    if (lane == 0) a.partial[task] = float4{s1, s2, 0, 0};
  }
}

// As the passes of pixels.cuh.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) pixels_maps(Shape g, Inputs in, MapsPass a, PixelTiles t) {
  constexpr int V = kVector<S, kWide>, kChildren = UP * UP, kBatch = UP == 2 ? 1 : kBackward ? 2 : 4;
  constexpr int kAtOnce = kBackward && UP * V == 16 ? 1 : kChildren;  // children, as far as registers go
  struct Shared {
    Rows<32 * V> rows;
    float2 sums[kWarps][32 * V];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const PixelThread me(t.lanes_log);
  const int block = int(blockIdx.x % t.blocks), part = int(blockIdx.x / t.blocks % t.parts);
  const int64_t n = blockIdx.x / (t.blocks * t.parts);
  const int c0 = block * me.lanes * V, c = c0 + me.lane * V;
  share_rows<V>(g, in, me, n, c0, shared.rows);
  const int64_t low = n * g.pixels * g.c + c, high = n * g.out_pixels * g.c + c;
  const S* x = static_cast<const S*>(in.x) + low;
  const int end = int(min(int64_t(g.pixels), (part + 1) * t.part_size));
  float sums[V][2] = {};
  for (int p0 = int(part * t.part_size) + me.row; p0 < end; p0 += kBatch * me.rows) {
    Pack<S, V> xs[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = p0 + b * me.rows;
      xs[b] = load<V, kWide>(x + int64_t(p) * g.c, p < end && c < g.c);
    }
    float dx[kBatch][V] = {};
#pragma unroll
    for (int first = 0; first < kChildren; first += kAtOnce) {
      MapsLine<S, V> lines[kBatch][kAtOnce];
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
          const int p = p0 + b * me.rows;
          const bool inside = p < end && c < g.c;
          const int64_t at = high + int64_t(child<UP>(g, p, first + q)) * g.c;
          lines[b][q].gamma = load<V, kWide>(static_cast<const S*>(a.gamma) + at, inside);
          lines[b][q].beta = load<V, kWide>(static_cast<const S*>(a.beta) + at, inside);
          if constexpr (kBackward) lines[b][q].dy = load<V, kWide>(static_cast<const S*>(in.dy) + at, inside);
        }
      T2ILAYERS_FENCE;
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int p = p0 + b * me.rows;
        if (p >= end || c >= g.c) break;
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
          float gamma[V], beta[V];
          widen(lines[b][q].gamma, gamma);
          widen(lines[b][q].beta, beta);
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const Row row = shared.rows.get(me.slot(i));  // registers do not hold those of all channels
            const float x_i = value(xs[b], i), dy_i = kBackward ? value(lines[b][q].dy, i) : 0;
            if (kBackward && first + q == 0) dx[b][i] = centred(in, row, x_i);
            maps_point<kSilu, kBackward>(g, row, x_i, dy_i, gamma[i], beta[i], dx[b][i], sums[i]);
            if (first + q == kChildren - 1) dx[b][i] *= row.rstd;
          }
          const int64_t at = high + int64_t(child<UP>(g, p, first + q)) * g.c;
          if constexpr (kBackward) {
            if (a.dgamma) {
              store<kWide>(static_cast<S*>(a.dgamma) + at, gamma);
              store<kWide>(static_cast<S*>(a.dbeta) + at, beta);
            }
          } else {
            store<kWide>(static_cast<S*>(a.y) + at, gamma);
          }
        }
      }
    }
    if constexpr (kBackward) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int p = p0 + b * me.rows;
        if (p < end && c < g.c && a.dx) store<kWide>(static_cast<S*>(a.dx) + low + int64_t(p) * g.c, dx[b]);
      }
    }
  }
  if constexpr (kBackward) {
    if (!a.partial) return;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      for (int offset = me.lanes; offset < 32; offset *= 2)
#pragma unroll
        for (int s = 0; s < 2; ++s) sums[i][s] += __shfl_xor_sync(kAllLanes, sums[i][s], offset);
      if (int(threadIdx.x % 32) < me.lanes)
        shared.sums[threadIdx.x / 32][me.slot(i)] = float2{sums[i][0], sums[i][1]};
    }
    __syncthreads();
    const int slot = threadIdx.x, channel = c0 + me.channel(slot, V);
    if (slot >= me.lanes * V || channel >= g.c) return;
    float2 all = shared.sums[0][slot];
    for (int warp = 1; warp < kWarps; ++warp) all.x += shared.sums[warp][slot].x, all.y += shared.sums[warp][slot].y;
    a.partial[(n * g.c + channel) * t.parts + part] = float4{all.x, all.y, 0, 0};
  }
}

}  // namespace gpu
}  // namespace t2ilayers
