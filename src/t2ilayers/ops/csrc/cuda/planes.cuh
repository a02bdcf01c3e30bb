// Planes of pixels, one a channel. A thread takes a cell: 16 bytes of a line of y, or with upsampling four pixels of
// two lines below each other, and the pixels of x that they come from.
#pragma once
#include "formula.cuh"
#include "sums.cuh"

namespace t2ilayers {
namespace gpu {

template <class S, int UP, bool kWide>
struct Cell {
  static constexpr int kIn = !kWide ? 1 : UP == 1 ? kVector<S, true> : 2;  // pixels of x
  static constexpr int kOut = UP * kIn;                                    // and of a line of y
  int in, out;  // where in the planes
  bool inside;

  static __host__ __device__ int cells(const Shape& g) { return g.pixels / kIn; }

  T2ILAYERS_DEVICE Cell(const Shape& g, int cell) : in(cell * kIn), out(in), inside(cell < cells(g)) {
    if (UP == 2) out = 2 * in + in / g.w * 2 * g.w;
  }
};

// A cell's mask as it lies in memory: to be widened once the maps' loads are on their way too.
template <int UP, int V>
struct MaskPack {
  uint32_t word[UP][V];
};

template <int UP, bool kWide, int V>
T2ILAYERS_DEVICE MaskPack<UP, V> load_mask(const void* mask, DType type, int64_t at, int line, bool inside) {
  MaskPack<UP, V> pack{};
  if (!mask || !inside) return pack;
  if (type == DType::f32) {
    constexpr int kPart = kWide ? 4 : 1;
#pragma unroll
    for (int i = 0; i < UP * V; i += kPart) {
      const auto* from = static_cast<const float*>(mask) + at + i / V * line + i % V;
      const auto part = load<kPart, kWide>(from, true);
#pragma unroll
      for (int j = 0; j < kPart; ++j) pack.word[i / V][i % V + j] = part.word[j];
    }
  } else if (type == DType::f64) {
#pragma unroll
    for (int i = 0; i < UP * V; ++i)
      pack.word[i / V][i % V] = __float_as_uint(read(mask, DType::f64, at + i / V * line + i % V));
  } else {
#pragma unroll
    for (int row = 0; row < UP; ++row) {
      const auto pairs = load<V, kWide>(static_cast<const Half*>(mask) + at + row * line, true);
#pragma unroll
      for (int i = 0; i < pairs.kWords; ++i) pack.word[row][i] = pairs.word[i];
    }
  }
  return pack;
}

// Or ones.
template <int UP, int V>
T2ILAYERS_DEVICE void widen(const MaskPack<UP, V>& pack, const void* mask, DType type, float (&to)[UP][V]) {
#pragma unroll
  for (int row = 0; row < UP; ++row)
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const uint32_t pair = pack.word[row][i / 2];
      const float2 both = type == DType::f16 ? unpack(pair, Half{}) : unpack(pair, BFloat16{});
      const float half = i % 2 ? both.y : both.x;
      const bool whole = type == DType::f32 || type == DType::f64;
      to[row][i] = !mask ? 1 : whole ? __uint_as_float(pack.word[row][i]) : half;
    }
}

// --- Statistics ------------------------------------------------------------------------------------------------

// Statistic k is of runs of `length` values, run r at (r statistics + k) length, which make `vectors` vectors.
// Threads take those of one part. With one part in all the block finishes by itself.
struct PlaneStatistics {
  unsigned statistics, parts;
  int64_t length, run_vectors, vectors, part_vectors;
  Results results;
  Moments<double>* partial;  // (statistics, parts)
};

template <class S, bool kWide>
__global__ void __launch_bounds__(kThreads) planes_statistics(const S* x, PlaneStatistics a) {
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
  for (int warp = 1; warp < int(blockDim.x / 32); ++warp) merge(moments, shared.warp[warp]);
  const Moments<double> all{moments.count, double(shared.base) + moments.mean, moments.m2};
  if (a.parts > 1)
    a.partial[k * a.parts + part] = all;
  else
    keep(a.results, k, all);
}

// --- Elementwise: y from x, or dx from dy and x ----------------------------------------------------------------

struct PlaneTiles {
  int lanes_log;            // of a block's threads, along the cells; the others are further channels
  int channels;             // of a block
  unsigned blocks, strips;  // of channels, and along the cells
};

// Blocks run from the last to the first: what the pass before read last may still be in the cache.
template <class S, int UP, bool kWide, bool kSilu, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) planes_apply(Shape g, Inputs in, void* to, PlaneTiles t) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kBatch = 4;
  struct Shared {
    Rows<kThreads> rows;
  };
  T2ILAYERS_SHARED(Shared, shared);
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const int c0 = int(block % t.blocks) * t.channels, channels = min(t.channels, g.c - c0);
  const int strip = int(block / t.blocks % t.strips);
  const int64_t n = block / (t.blocks * t.strips);
  const int lanes = 1 << t.lanes_log, rows = kThreads >> t.lanes_log;
  const C cell(g, strip * lanes + int(threadIdx.x & (lanes - 1)));
  const int line = UP * g.w;  // of y
  if (int(threadIdx.x) < channels) shared.rows.put(threadIdx.x, make_row(g, in, n, c0 + threadIdx.x));
  __syncthreads();
  if (!cell.inside) return;
  const int64_t plane = n * g.c + c0;
  const S* x = static_cast<const S*>(in.x) + plane * g.pixels + cell.in;
  const S* dy = static_cast<const S*>(in.dy) + plane * g.out_pixels + cell.out;
  S* to_cell = static_cast<S*>(to) + (kBackward ? plane * g.pixels + cell.in : plane * g.out_pixels + cell.out);
  const auto mask = load_mask<UP, kWide, kOut>(in.mask, g.mask_type, n * g.out_pixels + cell.out, line, true);
  for (int first = threadIdx.x >> t.lanes_log; first < channels; first += kBatch * rows) {
    Pack<S, kIn> xs[kBatch];
    Pack<S, kOut> dys[kBatch][UP];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int j = first + b * rows;
      xs[b] = load<kIn, kWide>(x + int64_t(j) * g.pixels, j < channels);
      if constexpr (kBackward)
#pragma unroll
        for (int row = 0; row < UP; ++row)
          dys[b][row] = load<kOut, kWide>(dy + int64_t(j) * g.out_pixels + row * line, j < channels);
    }
    float m[UP][kOut];
    widen(mask, in.mask, g.mask_type, m);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int j = first + b * rows;
      if (j >= channels) break;
      const Row r = shared.rows.get(j);
      float values[kIn], result[kIn];
      widen(xs[b], values);
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < kIn; ++i)
          result[i] = in.sums ? -fmaf(normalized(r, values[i]), r.k2, r.k1) : 0;
      }
#pragma unroll
      for (int row = 0; row < UP; ++row) {
        float mine[kOut];  // of dy, or of y
        if constexpr (kBackward) widen(dys[b][row], mine);
#pragma unroll
        for (int i = 0; i < kOut; ++i) {
          const Point at = point(g, r, m[row][i], values[i / UP]);
          if constexpr (kBackward)
            result[i / UP] = fmaf(through<kSilu>(g, at.z, mine[i]), at.a, result[i / UP]);
          else
            mine[i] = activated<kSilu>(g, at.z);
        }
        if constexpr (!kBackward) store<kWide>(to_cell + int64_t(j) * g.out_pixels + row * line, mine);
      }
      if constexpr (kBackward) {
#pragma unroll
        for (int i = 0; i < kIn; ++i) result[i] *= r.rstd;
        store<kWide>(to_cell + int64_t(j) * g.pixels, result);
      }
    }
  }
}

// --- Backward's sums -------------------------------------------------------------------------------------------

constexpr int kWarpChannels = 8;
constexpr int kBlockChannels = kWarps * kWarpChannels;

// The dmask of a warp's strip in shared memory: each lane's V values as they come, such that neither the lanes that
// write four at a time nor the threads that read in the order of pixels meet a bank twice.
template <int V>
struct StripBuffer {
  static constexpr int kPieces = V < 4 ? V : V / 4, kWidth = V / kPieces, kStride = 32 * kWidth + 16;
  alignas(16) float value[kPieces * kStride];

  static T2ILAYERS_DEVICE int place(int pixel) {
    const int lane = pixel / V, i = pixel % V;
    return i / kWidth * kStride + lane * kWidth + i % kWidth;
  }
  T2ILAYERS_DEVICE void put(int lane, const float (&from)[V]) {
    if constexpr (V < 4) {
#pragma unroll
      for (int i = 0; i < V; ++i) value[place(lane * V + i)] = from[i];
    } else {
#pragma unroll
      for (int i = 0; i < V; i += 4) {
        const float4 four{from[i], from[i + 1], from[i + 2], from[i + 3]};
        *reinterpret_cast<float4*>(value + place(lane * V + i)) = four;
      }
    }
  }
};

// A block takes up to 64 channels over `part_size` strips of 32 cells of a sample. A warp owns 8 of the channels
// and a lane keeps their sums across the strips. dmask is summed over a warp's channels in registers, then over
// the warps through shared memory. No branch for single channels: loads would wait behind it. Those that are not
// there have rows and values of zeros.
template <class S, int UP, bool kWide, bool kSilu, bool kInput>
__global__ void __launch_bounds__(kThreads, 2) planes_reduce(Shape g, Inputs in, Reduce a) {
  using C = Cell<S, UP, kWide>;
  constexpr int kIn = C::kIn, kOut = C::kOut, kPixels = 32 * UP * kOut;
  constexpr int kBatch = UP == 2 && sizeof(S) == 4 ? 2 : 4;
  struct Shared {
    Rows<kBlockChannels> rows;
    StripBuffer<kOut> dmask[2][kWarps][UP];
  };
  T2ILAYERS_SHARED(Shared, shared);
  const int block = int(blockIdx.x % a.blocks), part = int(blockIdx.x / a.blocks % a.parts);
  const int64_t n = blockIdx.x / (a.blocks * a.parts);
  const int c0 = block * kBlockChannels, channels = min(kBlockChannels, g.c - c0);
  if (threadIdx.x < kBlockChannels)
    shared.rows.put(threadIdx.x, int(threadIdx.x) < channels ? make_row(g, in, n, c0 + threadIdx.x) : Row{});
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, line = UP * g.w;
  const int strips = (C::cells(g) + 31) / 32, end = min(strips, (part + 1) * a.part_size);
  const int64_t plane = n * g.c + c0;
  const S* first_x = static_cast<const S*>(in.x) + (plane + warp) * g.pixels;
  const S* first_dy = static_cast<const S*>(in.dy) + (plane + warp) * g.out_pixels;
  S* first_dx = static_cast<S*>(a.dx) + (plane + warp) * g.pixels;
  const int64_t x_step = int64_t(kWarps) * g.pixels, dy_step = int64_t(kWarps) * g.out_pixels;
  float sums[4 * kWarpChannels] = {};  // four of each of channels warp, warp + 8, ...
  for (int strip = part * a.part_size; strip < end; ++strip) {
    const C cell(g, strip * 32 + lane);
    const auto mask =
        load_mask<UP, kWide, kOut>(in.mask, g.mask_type, n * g.out_pixels + cell.out, line, cell.inside);
    float m[UP][kOut], dmask[UP][kOut] = {};
#pragma unroll
    for (int first = 0; first < kWarpChannels; first += kBatch) {
      if (first == kWarpChannels / 2 && first * kWarps >= channels) break;
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
      if (first == 0) widen(mask, in.mask, g.mask_type, m);
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int j = warp + (first + b) * kWarps;
        const Row r = shared.rows.get(j);
        float* const sum = sums + 4 * (first + b);
        float values[kIn], result[kIn] = {};
        widen(x[b], values);
#pragma unroll
        for (int row = 0; row < UP; ++row) {
          float gradient[kOut];  // 0 outside, so that nothing is added there
          widen(dy[b][row], gradient);
#pragma unroll
          for (int i = 0; i < kOut; ++i) {
            const Point at = point(g, r, m[row][i], values[i / UP]);
            const float dz = through<kSilu>(g, at.z, gradient[i]), dzm = dz * m[row][i];
            sum[0] += dz;
            sum[1] = fmaf(dz, at.xhat, sum[1]);
            sum[2] += dzm;
            sum[3] = fmaf(dzm, at.xhat, sum[3]);
            dmask[row][i] = fmaf(dz, by_mask(g, r, at.xhat), dmask[row][i]);
            if constexpr (kInput) result[i / UP] = fmaf(dz, at.a, result[i / UP]);
          }
        }
        if constexpr (kInput) {
          if (cell.inside && j < channels) {
#pragma unroll
            for (int i = 0; i < kIn; ++i) result[i] *= r.rstd;
            store<kWide>(first_dx + cell.in + (first + b) * x_step, result);
          }
        }
      }
    }
    if (a.dmask) {
      auto& buffer = shared.dmask[strip % 2];  // two, so that one barrier a strip does
#pragma unroll
      for (int row = 0; row < UP; ++row) buffer[warp][row].put(lane, dmask[row]);
      __syncthreads();
      for (int i = threadIdx.x; i < kPixels; i += kThreads) {
        const int row = i / (32 * kOut), column = i % (32 * kOut);
        const C other(g, strip * 32 + column / kOut);
        if (!other.inside) continue;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += buffer[w][row].value[StripBuffer<kOut>::place(column)];
        write(a.dmask, a.dmask_type, (block * g.n + n) * g.out_pixels + other.out + row * line + column % kOut, sum);
      }
    }
  }
  const float sum = lane_sum<16>(sums);
  const int j = warp + lane / 4 * kWarps;
  if (j < channels) reinterpret_cast<float*>(a.partial + (plane + j) * a.parts + part)[lane % 4] = sum;
}

}  // namespace gpu
}  // namespace t2ilayers
