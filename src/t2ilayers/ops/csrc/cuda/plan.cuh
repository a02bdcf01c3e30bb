// On which grids the kernels of a pass run, and what they need besides. After a file that provides
//   using Stream = ...;
//   template <class... P> void launch(Stream, void (*kernel)(P...), int64_t blocks, int threads, P... arguments);
// in t2ilayers::gpu, where no blocks mean no launch.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "calls.cuh"
#include "chain.cuh"
#include "maps.cuh"
#include "pixels.cuh"
#include "planes.cuh"

namespace t2ilayers {
namespace gpu {

// How many blocks keep a GPU busy, and how many channels are worth computing their constants: measured on an H200,
// of whose 132 multiprocessors each holds two blocks of the larger kernels. The same numbers everywhere, so that the
// order of all sums, and with it every bit, is that of every GPU.
constexpr int64_t kStatisticsBlocks = 512;  // more of them, and merging what they found takes longer than they save
constexpr int64_t kReduceBlocks = 1024;
constexpr int64_t kPixelReduceBlocks = 528;
constexpr int64_t kApplyBlocks = 1024;
constexpr int64_t kWave = 264;
constexpr int64_t kRowWarps = 16384;
constexpr int kApplyChannels = 16;

// The least k with 1 << k >= value, at most `limit`.
inline int log_ceil(int64_t value, int limit) {
  int k = 0;
  while (k < limit && int64_t(1) << k < value) ++k;
  return k;
}

inline bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return true;
}

// Whether lines of values are whole multiples of what a thread takes at a time.
inline bool whole(const Problem& p) {
  const int64_t lanes = p.dtype == DType::f32 ? 4 : 8;
  if (p.channels_last) return p.c % lanes == 0;
  return p.up == 1 ? p.pixels() % lanes == 0 : p.w % 2 == 0;
}

template <class S, int UP, bool kWide, bool kSilu>
struct Plan {
  static constexpr int V = kVector<S, kWide>;
  using C = Cell<S, UP, kWide>;
  const Problem& p;
  const bool empty;

  explicit Plan(const Problem& p) : p(p), empty(p.n * p.c * p.pixels() == 0) {}

  Shape shape() const {
    Shape g{};
    g.n = p.n, g.c = int(p.c), g.w = int(p.w);
    g.pixels = int(p.pixels()), g.out_pixels = int(p.out_pixels());
    g.groups = int(p.groups), g.width = int(p.groups > 0 ? p.c / p.groups : 1);
    g.eps = p.eps, g.scale = 1 / double(std::max<int64_t>(1, p.count()));
    g.slope = float(p.slope), g.absolute = p.absolute;
    g.slope_bits = p.activation == Activation::relu ? 0 : ~0u;
    g.gamma_type = p.gamma_dtype, g.beta_type = p.beta_dtype, g.mask_type = p.mask_dtype;
    return g;
  }

  // --- Statistics
  int64_t runs() const { return p.groups ? 1 : p.n; }
  int64_t run_length() const { return p.groups ? p.count() : p.pixels(); }
  int64_t run_vectors() const { return std::max<int64_t>(1, ceil_div(run_length(), V)); }
  int64_t plane_parts() const {
    const int64_t enough = ceil_div(kStatisticsBlocks, std::max<int64_t>(1, p.statistics()));
    return std::max<int64_t>(1, std::min(enough, runs() * run_vectors() / (8 * kThreads)));
  }

  int64_t samples() const { return p.groups ? p.n : 1; }
  int64_t sample_pixels() const { return p.groups ? p.pixels() : p.n * p.pixels(); }
  PixelTiles statistics_tiles() const {
    // Few lanes, so that few channels still make many blocks: 128 bytes beside each other are enough.
    PixelTiles t = tiles(3);
    const int64_t rows = kThreads >> t.lanes_log;
    const int64_t enough = ceil_div(kStatisticsBlocks, std::max<int64_t>(1, int64_t(t.blocks) * samples()));
    const int64_t parts = std::max<int64_t>(1, std::min(enough, sample_pixels() / (16 * rows)));
    return part(t, sample_pixels(), ceil_div(sample_pixels(), parts));
  }

  int64_t statistics_bytes() const {
    const int64_t planes = p.statistics() * plane_parts(), pixels = samples() * statistics_tiles().parts * p.c;
    return (p.channels_last ? pixels : planes) * int64_t(sizeof(Moments<double>));
  }

  void statistics(const void* x, const Results& results, void* scratch, Stream stream) const {
    auto* partial = static_cast<Moments<double>*>(scratch);
    Parts merge{};
    if (p.channels_last) {
      const PixelTiles t = statistics_tiles();
      const bool direct = t.parts == 1 && (!p.groups || p.groups == p.c);
      const PixelStatistics a{sample_pixels(), int(p.c), direct, results, partial};
      const int64_t blocks = samples() * t.blocks * t.parts;
      launch(stream, pixels_statistics<S, kWide>, blocks, kThreads, static_cast<const S*>(x), a, t);
      if (direct) return;
      merge = p.groups ? Parts{p.groups, t.parts * p.c, p.c / p.groups, t.parts, p.c, int(p.c / p.groups)}
                       : Parts{p.c, 0, 1, t.parts, p.c, 1};
    } else {
      const int64_t vectors = empty ? 0 : runs() * run_vectors(), parts = plane_parts();
      const PlaneStatistics a{unsigned(p.statistics()), unsigned(parts), run_length(), run_vectors(), vectors,
                              ceil_div(vectors, parts), results, partial};
      // A warp is enough for few values.
      const int threads = int(std::clamp<int64_t>(ceil_div(a.part_vectors, 4 * 32) * 32, 32, kThreads));
      launch(stream, planes_statistics<S, kWide>, p.statistics() * parts, threads, static_cast<const S*>(x), a);
      if (parts == 1) return;
      merge = Parts{1, parts, 0, parts, 1, 1};
    }
    finish(partial, merge, p.statistics(), results, stream);
  }

  // --- Elementwise passes
  template <bool kBackward>
  void apply(const Shape& g, const Inputs& in, void* to, Stream stream) const {
    if (empty) return;
    if (p.channels_last) {
      const PixelTiles t = apply_tiles();
      launch(stream, pixels_apply<S, UP, kWide, kSilu, kBackward>, p.n * t.parts * t.blocks, kThreads, g, in, to, t);
    } else {
      PlaneTiles t{};
      t.lanes_log = log_ceil(C::cells(g), 8);
      t.channels = std::max(kApplyChannels, kThreads >> t.lanes_log);
      t.strips = unsigned(ceil_div(C::cells(g), 1 << t.lanes_log));
      t.blocks = unsigned(ceil_div(p.c, t.channels));
      launch(stream, planes_apply<S, UP, kWide, kSilu, kBackward>, p.n * t.strips * t.blocks, kThreads, g, in, to, t);
    }
  }

  // --- Passes where nothing couples rows
  // Of each row, by warps of planes or blocks of pixels.
  int64_t row_parts() const {
    if (p.channels_last) return reduce_tiles().parts;
    const int64_t enough = std::max<int64_t>(1, kRowWarps / std::max<int64_t>(1, p.n * p.c));
    return std::clamp<int64_t>(C::cells(shape()) / (8 * 32), 1, enough);
  }
  int row_part_size() const { return int(ceil_div(ceil_div(C::cells(shape()), 32), row_parts()) * 32); }
  int64_t row_blocks() const { return ceil_div(p.n * p.c * row_parts(), kWarps); }

  ChainPass chain_pass(int64_t pairs, const void* x, const void* gamma, const void* beta) const {
    ChainPass a{};
    a.x = x, a.gamma = gamma, a.beta = beta, a.pairs = int(pairs);
    return a;
  }
  int64_t chain_bytes(int64_t pairs) const {
    return empty ? 0 : p.n * p.c * row_parts() * 2 * pairs * int64_t(sizeof(float));
  }

  template <bool kBackward>
  void chain(const Shape& g, ChainPass a, Stream stream) const {
    if (empty) return;
    if (p.channels_last) {
      const PixelTiles t = kBackward ? reduce_tiles() : apply_tiles();
      a.parts = t.parts;
      launch(stream, pixels_chain<S, UP, kWide, kSilu, kBackward>, p.n * t.parts * t.blocks, kThreads, g, a, t);
    } else {
      a.parts = unsigned(row_parts()), a.part_size = row_part_size();
      launch(stream, planes_chain<S, UP, kWide, kSilu, kBackward>, row_blocks(), kThreads, g, a);
    }
  }

  int64_t maps_bytes() const { return empty ? 0 : p.n * p.c * row_parts() * int64_t(sizeof(float4)); }

  template <bool kBackward>
  void maps(const Shape& g, const Inputs& in, MapsPass a, Stream stream) const {
    if (empty) return;
    if (p.channels_last) {
      const PixelTiles t = kBackward ? reduce_tiles() : apply_tiles();
      a.parts = t.parts;
      launch(stream, pixels_maps<S, UP, kWide, kSilu, kBackward>, p.n * t.parts * t.blocks, kThreads, g, in, a, t);
    } else {
      a.parts = unsigned(row_parts()), a.part_size = row_part_size();
      launch(stream, planes_maps<S, UP, kWide, kSilu, kBackward>, row_blocks(), kThreads, g, in, a);
    }
  }

  // --- Backward's sums
  int64_t strips() const { return ceil_div(C::cells(shape()), 32); }
  int64_t channel_blocks() const {
    return p.channels_last ? sum_tiles().blocks : ceil_div(p.c, kBlockChannels);
  }
  int64_t reduce_enough() const {
    const int64_t one = p.n * channel_blocks();
    return p.channels_last ? std::max<int64_t>(1, kPixelReduceBlocks / one) : ceil_div(kReduceBlocks, one);
  }
  PixelTiles reduce_tiles() const {  // strips of cells where channels are not last
    if (!p.channels_last)
      return part(PixelTiles{}, strips(), ceil_div(strips(), std::min(reduce_enough(), strips())));
    const PixelTiles t = sum_tiles();
    const int64_t rows = kThreads >> t.lanes_log, steps = ceil_div(p.pixels(), rows);
    return part(t, p.pixels(), ceil_div(steps, std::min(reduce_enough(), ceil_div(steps, 4))) * rows);
  }
  int64_t partial_bytes() const {
    return empty ? 0 : p.n * p.c * reduce_tiles().parts * int64_t(sizeof(float4));
  }
  int64_t reduce_bytes(bool dmask) const {
    const int64_t layers = dmask && channel_blocks() > 1 ? channel_blocks() : 0;
    return empty ? 0 : partial_bytes() + layers * p.n * p.out_pixels() * int64_t(sizeof(float));
  }

  // Which rows share a statistic.
  void share(Finish& f, const Backward& b) const {
    f.sets = p.groups > 0 ? p.n * p.groups : p.c;
    f.warps = (p.groups > 0 ? p.c / p.groups : p.n) >= kWarps ? kWarps : 1;
    f.blocks = ceil_div(f.sets * f.warps, kWarps);
    f.sums = p.normalized() ? b.sums : nullptr;
  }

  // With dx, where statistics are constant.
  void reduce(const Shape& g, const Inputs& in, const Backward& b, void* dx, void* scratch, Stream stream) const {
    auto* layers = reinterpret_cast<float*>(static_cast<char*>(scratch) + partial_bytes());
    const bool layered = b.dmask && channel_blocks() != 1;
    Finish f{};
    if (!empty) {
      const PixelTiles t = reduce_tiles();
      const Reduce a{static_cast<float4*>(scratch), layered ? layers : b.dmask, layered ? DType::f32 : p.mask_dtype,
                     unsigned(channel_blocks()), t.parts, int(t.part_size), dx};
      f.partial = a.partial, f.parts = t.parts;
      if (dx)
        reduce<true>(g, in, a, t, stream);
      else
        reduce<false>(g, in, a, t, stream);
    }
    share(f, b);
    f.gamma = b.gamma, f.dgamma = b.dgamma, f.dbeta = b.dbeta;
    f.layers = int(channel_blocks()), f.dmask_partial = layers, f.dmask = b.dmask;
    f.mask_pixels = layered ? p.n * p.out_pixels() : 0;
    finish(g, f, stream);
  }

 private:
  template <bool kInput>
  void reduce(const Shape& g, const Inputs& in, const Reduce& a, const PixelTiles& t, Stream stream) const {
    const int64_t blocks = p.n * a.parts * a.blocks;
    if (p.channels_last)
      launch(stream, pixels_reduce<S, UP, kWide, kSilu, kInput>, blocks, kThreads, g, in, a, t);
    else
      launch(stream, planes_reduce<S, UP, kWide, kSilu, kInput>, blocks, kThreads, g, in, a);
  }

  // Small maps make a wave of blocks if they can, large ones blocks that are worth their beginning.
  PixelTiles apply_tiles() const {
    const PixelTiles t = tiles(5);
    const int64_t rows = kThreads >> t.lanes_log, steps = ceil_div(p.pixels(), rows), all = p.n * t.blocks * steps;
    const int64_t least = std::clamp<int64_t>(ceil_div(all, kWave), 1, 4);
    const int64_t enough = std::clamp<int64_t>(all / kApplyBlocks, least, 64 / (UP * UP));
    return part(t, p.pixels(), (enough < 4 ? enough : enough / 4 * 4) * rows);
  }
  // Lanes as many as an iteration of pixels_reduce has values of dmask, at least.
  PixelTiles sum_tiles() const { return tiles(5, 2); }
  PixelTiles tiles(int most_lanes_log, int least_lanes_log = 0) const {
    PixelTiles t{};
    t.lanes_log = std::max(least_lanes_log, log_ceil(ceil_div(p.c, V), most_lanes_log));
    t.blocks = unsigned(ceil_div(ceil_div(p.c, V), 1 << t.lanes_log));
    return t;
  }
  static PixelTiles part(PixelTiles t, int64_t size, int64_t part_size) {
    t.part_size = std::max<int64_t>(1, part_size);
    t.parts = unsigned(std::max<int64_t>(1, ceil_div(size, t.part_size)));
    return t;
  }
};

}  // namespace gpu
}  // namespace t2ilayers
