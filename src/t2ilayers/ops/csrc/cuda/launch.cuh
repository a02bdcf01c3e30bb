// Which kernels one call runs, in which order, on which grids. The including file provides
//   using Stream = ...;
//   template <class... P> void launch(Stream, void (*kernel)(P...), int64_t blocks, int threads, P... arguments);
// in t2ilayers::gpu, where no blocks mean no launch. Nothing here allocates or waits, and grids depend on the
// shape alone: results are the same bits on every GPU.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "finish.cuh"
#include "planes.cuh"
#include "pixels.cuh"

namespace t2ilayers {
namespace gpu {

// To measure on a GPU: how many blocks keep one busy, and how many channels are worth computing their constants.
constexpr int64_t kStatisticsBlocks = 2048;
constexpr int64_t kReduceBlocks = 1024;
constexpr int kMapChannels = 16;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

// Whether lines of values, 16 bytes of which lie beside each other, are whole multiples of that.
inline bool whole(const Problem& p) {
  const int64_t lanes = p.dtype == DType::f32 ? 4 : 8;
  return (p.channels_last ? p.c : p.up == 1 ? p.pixels() : 2 * p.w) % lanes == 0;
}

// visit(value of the storage type, constants of the upsampling and of the kernels' width)
template <class Visit>
auto dispatch(const Problem& p, bool wide, Visit visit) {
  const auto with_width = [&](auto s, auto up) {
    return wide ? visit(s, up, std::true_type{}) : visit(s, up, std::false_type{});
  };
  const auto with_up = [&](auto s) {
    return p.up == 1 ? with_width(s, std::integral_constant<int, 1>{})
                     : with_width(s, std::integral_constant<int, 2>{});
  };
  switch (p.dtype) {
    case DType::f16: return with_up(F16{});
    case DType::bf16: return with_up(BF16{});
    default: return with_up(float{});
  }
}

template <class S, int UP, bool kWide>
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
    g.groups = int(p.groups), g.width = int(p.groups ? p.c / p.groups : 1);
    g.count = double(p.count()), g.eps = p.eps, g.slope = float(p.slope);
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

  void statistics(const void* x, double* mean, double* var, void* scratch, Stream stream) const {
    auto* partial = static_cast<Moments<double>*>(scratch);
    Parts merge{};
    if (p.channels_last) {
      const PixelTiles t = statistics_tiles();
      const bool direct = t.parts == 1 && (!p.groups || p.groups == p.c);
      const PixelStatistics a{sample_pixels(), int(p.c), direct ? mean : nullptr, direct ? var : nullptr, partial};
      const int64_t blocks = samples() * t.blocks * t.parts;
      launch(stream, nhwc_statistics<S, kWide>, blocks, kThreads, static_cast<const S*>(x), a, t);
      if (direct) return;
      merge = p.groups ? Parts{p.groups, t.parts * p.c, p.c / p.groups, t.parts, p.c, int(p.c / p.groups)}
                       : Parts{p.c, 0, 1, t.parts, p.c, 1};
    } else {
      const int64_t vectors = empty ? 0 : runs() * run_vectors(), parts = plane_parts();
      const PlaneStatistics a{unsigned(p.statistics()), unsigned(parts), run_length(), run_vectors(), vectors,
                              ceil_div(vectors, parts), mean, var, partial};
      // A warp is enough for few values.
      const int threads = int(std::clamp<int64_t>(ceil_div(a.part_vectors, 4 * 32) * 32, 32, kThreads));
      launch(stream, nchw_statistics<S, kWide>, p.statistics() * parts, threads, static_cast<const S*>(x), a);
      if (parts == 1) return;
      merge = Parts{1, parts, 0, parts, 1, 1};
    }
    launch(stream, finish_statistics, ceil_div(p.statistics(), kWarps), kThreads,
           static_cast<const Moments<double>*>(partial), merge, p.statistics(), mean, var);
  }

  // --- Elementwise passes
  template <bool kBackward>
  void map(const Shape& g, const Map& a, Stream stream) const {
    if (empty) return;
    if (p.channels_last) {
      PixelTiles t = tiles(5);
      t = part(t, p.pixels(), 16 / (UP * UP) * (kThreads >> t.lanes_log));
      launch(stream, nhwc_map<S, UP, kWide, kBackward>, p.n * t.parts * t.blocks, kThreads, g, a, t);
    } else {
      PlaneTiles t{};
      t.lanes_log = log_ceil(C::cells(g), 8);
      t.channels = std::max(kMapChannels, kThreads >> t.lanes_log);
      t.strips = unsigned(ceil_div(C::cells(g), 1 << t.lanes_log));
      t.blocks = unsigned(ceil_div(p.c, t.channels));
      launch(stream, nchw_map<S, UP, kWide, kBackward>, p.n * t.strips * t.blocks, kThreads, g, a, t);
    }
  }

  // --- Backward's sums
  int64_t strips() const { return ceil_div(C::cells(shape()), 32); }
  int64_t channel_blocks() const { return p.channels_last ? tiles(5).blocks : ceil_div(p.c, kBlockChannels); }
  int64_t reduce_enough() const { return ceil_div(kReduceBlocks, p.n * channel_blocks()); }
  PixelTiles reduce_tiles() const {  // strips of cells where channels are not last
    if (!p.channels_last)
      return part(PixelTiles{}, strips(), ceil_div(strips(), std::min(reduce_enough(), strips())));
    const PixelTiles t = tiles(5);
    const int64_t rows = kThreads >> t.lanes_log, steps = ceil_div(p.pixels(), rows);
    return part(t, p.pixels(), ceil_div(steps, std::min(reduce_enough(), ceil_div(steps, 4))) * rows);
  }
  int64_t partial_bytes() const {
    return empty ? 0 : p.n * p.c * reduce_tiles().parts * int64_t(sizeof(float4));
  }
  int64_t reduce_bytes() const {
    return partial_bytes() + channel_blocks() * p.n * p.out_pixels() * int64_t(sizeof(float));
  }

  void reduce(Shape g, const Backward& b, void* scratch, Stream stream) const {
    const float *gamma = static_cast<const float*>(b.gamma), *beta = static_cast<const float*>(b.beta);
    auto* partial = static_cast<float4*>(scratch);
    auto* layers = reinterpret_cast<float*>(static_cast<char*>(scratch) + partial_bytes());
    auto* dmask = static_cast<float*>(b.dmask);
    const bool layered = dmask && channel_blocks() != 1;
    Finish f{};
    f.partial = partial;
    if (!empty) {
      const PixelTiles t = reduce_tiles();
      f.parts = t.parts;
      const Reduce a{b.dy, b.x, gamma, beta, static_cast<const float*>(b.mask), b.mean, b.var, partial,
                     layered ? layers : dmask, unsigned(channel_blocks()), t.parts, int(t.part_size)};
      const int64_t blocks = p.n * t.parts * a.blocks;
      if (p.channels_last)
        launch(stream, nhwc_reduce<S, UP, kWide>, blocks, kThreads, g, a, t);
      else
        launch(stream, nchw_reduce<S, UP, kWide>, blocks, kThreads, g, a);
    }
    f.statistics = p.statistics();
    f.warps = (p.groups ? p.c / p.groups : p.n) >= kWarps ? kWarps : 1;
    f.blocks = ceil_div(f.statistics * f.warps, kWarps);
    f.gamma = gamma;
    f.dgamma = static_cast<float*>(b.dgamma), f.dbeta = static_cast<float*>(b.dbeta), f.sums = b.sums;
    f.dmask_partial = layers, f.layers = int(channel_blocks()), f.dmask = dmask;
    f.mask_pixels = layered ? p.n * p.out_pixels() : 0;
    launch(stream, finish_reduce, f.blocks + ceil_div(f.mask_pixels, kThreads), kThreads, g, f);
  }

 private:
  PixelTiles tiles(int most_lanes_log) const {
    PixelTiles t{};
    t.lanes_log = log_ceil(ceil_div(p.c, V), most_lanes_log);
    t.blocks = unsigned(ceil_div(ceil_div(p.c, V), 1 << t.lanes_log));
    return t;
  }
  static PixelTiles part(PixelTiles t, int64_t size, int64_t part_size) {
    t.part_size = std::max<int64_t>(1, part_size);
    t.parts = unsigned(std::max<int64_t>(1, ceil_div(size, t.part_size)));
    return t;
  }
};

inline int64_t scratch_bytes(const Problem& p) {
  const auto bytes = [&](bool wide) {
    return dispatch(p, wide, [&](auto s, auto up, auto width) {
      const Plan<decltype(s), up(), width()> plan(p);
      return std::max(plan.statistics_bytes(), plan.empty ? int64_t(0) : plan.reduce_bytes());
    });
  };
  return std::max(bytes(false), whole(p) ? bytes(true) : 0);
}

inline void statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, Stream stream) {
  Problem low = p;
  low.up = 1;
  dispatch(low, whole(low) && aligned({x}), [&](auto s, auto up, auto width) {
    Plan<decltype(s), up(), width()>(low).statistics(x, mean, var, scratch, stream);
  });
}

inline void forward(const Problem& p, const Forward& f, void* scratch, Stream stream) {
  if (!f.given) statistics(p, f.x, f.mean, f.var, scratch, stream);
  dispatch(p, whole(p) && aligned({f.x, f.mask, f.y}), [&](auto s, auto up, auto width) {
    const Plan<decltype(s), up(), width()> plan(p);
    const Map a{nullptr, f.x, static_cast<const float*>(f.gamma), static_cast<const float*>(f.beta),
                static_cast<const float*>(f.mask), f.mean, f.var, nullptr, f.y};
    plan.template map<false>(plan.shape(), a, stream);
  });
}

inline void backward(const Problem& p, const Backward& b, void* scratch, Stream stream) {
  dispatch(p, whole(p) && aligned({b.dy, b.x, b.mask, b.dx}), [&](auto s, auto up, auto width) {
    const Plan<decltype(s), up(), width()> plan(p);
    Shape g = plan.shape();
    g.divided = !b.reduce;
    if (b.reduce) plan.reduce(g, b, scratch, stream);
    if (b.input) {
      const Map a{b.dy, b.x, static_cast<const float*>(b.gamma), static_cast<const float*>(b.beta),
                  static_cast<const float*>(b.mask), b.mean, b.var, b.constant ? nullptr : b.sums, b.dx};
      plan.template map<true>(g, a, stream);
    }
  });
}

}  // namespace gpu
}  // namespace t2ilayers
