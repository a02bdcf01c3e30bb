// Planes of pixels, one for each channel. Statistics close over few channels, so those are taken through both passes
// while they are in cache: each map comes from memory once.

constexpr int64_t kSubBlock = 4;     // channels that share a mask vector, and go through both passes together
constexpr int64_t kMaskBlock = 16;   // channels behind one partial mask gradient
constexpr int64_t kChunk = 2048;     // pixels at a time, so that a row and its mask stay in the first cache
constexpr int64_t kSegment = 65536;  // pixels behind one partial sum
constexpr int64_t kShort = 64;       // pixels of a row up to which several rows are summed at once

// Pixels are walked in cells: a pixel, or with upsampling a row of x, which is two adjacent rows of y.
struct Planes {
  const Problem& p;
  int64_t low, high;  // pixels of x and of y in a cell
  int64_t cells, chunk, segment, segments;

  explicit Planes(const Problem& p)
      : p(p),
        low(p.up == 1 ? 1 : p.w),
        high(p.up == 1 ? 1 : 4 * p.w),
        cells(p.up == 1 ? p.pixels() : p.w ? p.h : 0),
        chunk(larger(1, kChunk / larger(high, 1))),
        segment(larger(1, kSegment / larger(high, 1))),
        segments(ceil_div(cells, segment)) {}

  int64_t chunk_pixels() const { return chunk * high; }

  // From a plane of sample n to that of the next, if it should be asked for while this one is worked on: if planes are
  // so short that the hardware, which sees them follow one another, has no time to. 0 asks for what is there.
  int64_t ahead(int64_t n) const {
    return p.up == 1 && cells <= chunk && n + 1 < p.n ? p.c * p.pixels() : 0;
  }

  // body(first cell, number of cells)
  template <class Body>
  T2ILAYERS_INLINE void for_chunks(int64_t s, Body body) const {
    const int64_t end = smaller(cells, (s + 1) * segment);
    for (int64_t cell = s * segment; cell < end; cell += chunk) body(cell, smaller(chunk, end - cell));
  }
};

// body(statistic, first channel, last channel) for the statistics of these channels.
template <class Body>
T2ILAYERS_INLINE void for_statistics(const Problem& p, int64_t n0, int64_t c0, int64_t c1, Body body) {
  const int64_t width = p.groups > 0 ? p.c / p.groups : 1;
  for (int64_t c = c0; c < c1; c += width) body(p.groups > 0 ? n0 * p.groups + c / width : c, c, c + width);
}

// The scales of these channels' statistics, computed once: a square root and a division for each row would show on
// small maps.
template <class T>
void fill_scales(const Problem& p, const double* mean, const double* var, Scale<T>* scales, int64_t n0, int64_t n1,
                 int64_t c0, int64_t c1) {
  if (n0 == n1 || !p.normalized()) return;
  for_statistics(p, n0, c0, c1, [&](int64_t k, int64_t, int64_t) { scales[k] = Scale<T>::of(mean[k], var[k], p.eps); });
}

// What must be reduced before the second pass: channels [c0, c1) of samples [n0, n1).
struct Block {
  int64_t n0, n1, c0, c1;
};

struct Blocks {
  const Problem& p;
  int64_t closed;    // channels over which statistics close
  int64_t channels;  // of a block, a multiple of closed
  int64_t per_sample;

  explicit Blocks(const Problem& p)
      : p(p),
        closed(p.groups > 0 && p.groups < p.c ? p.c / p.groups : kSubBlock),
        channels(closed * larger(1, kMaskBlock / closed)),
        per_sample(ceil_div(p.c, channels)) {}

  int64_t count() const { return per_sample * (p.groups > 0 ? p.n : 1); }
  Block operator[](int64_t i) const {
    const int64_t c0 = i % per_sample * channels, n = i / per_sample;
    return {p.groups > 0 ? n : 0, p.groups > 0 ? n + 1 : p.n, c0, smaller(p.c, c0 + channels)};
  }
};

// Rows of x, of `w` values, as the rows of y that they become: each value twice, each row twice.
template <class S>
T2ILAYERS_INLINE void upsample_rows(const S* from, S* to, int64_t rows, int64_t w) {
  for (int64_t row = 0; row < rows; ++row, from += w, to += 4 * w) {
    int64_t i = 0;
    for (; i + kLanes<S> <= w; i += kLanes<S>) {
      Vec<S> v;
      __builtin_memcpy(&v, from + i, sizeof v);
      const Vec<S> left = twice<S, 0>(v, AllLanes<S>{}), right = twice<S, kLanes<S> / 2>(v, AllLanes<S>{});
      __builtin_memcpy(to + 2 * i, &left, sizeof v);
      __builtin_memcpy(to + 2 * i + kLanes<S>, &right, sizeof v);
    }
    for (; i < w; ++i) to[2 * i] = to[2 * i + 1] = from[i];
    __builtin_memcpy(to + 2 * w, to, 2 * w * sizeof(S));
  }
}

// A thread's chunk of everything that cannot be read or written in place.
template <class S, class T>
struct Workspace {
  const int64_t size;
  Buffer<S> maps;
  Buffer<T> parameters;
  explicit Workspace(const Planes& planes)
      : size(planes.chunk_pixels()), maps(planes.p.up == 1 ? 0 : size * kSubBlock), parameters(size * 5) {
    for (int64_t i = 0; i < size; ++i) ones()[i] = 1;
  }
  T* ones() { return parameters.data; }
  T* mask() { return parameters.data + size; }  // and of parameters that are maps:
  T* gamma() { return parameters.data + size; }
  T* beta() { return parameters.data + 2 * size; }
  T* dgamma() { return parameters.data + 3 * size; }
  T* dbeta() { return parameters.data + 4 * size; }

  // Cells of x as pixels of y, in place `j` of kSubBlock.
  const S* upsampled(const Planes& planes, const S* from, int64_t cells, int64_t j) {
    if (planes.p.up == 1) return from;
    S* to = maps.data + j * size;
    upsample_rows<typename Bits<S>::type>(reinterpret_cast<const typename Bits<S>::type*>(from),
                                          reinterpret_cast<typename Bits<S>::type*>(to), cells, planes.p.w);
    return to;
  }
};

// What acts on a chunk of a row: its mask, or its own parameters.
template <class T>
struct Modulation {
  const T *mask, *gamma, *beta;
  T absolute;  // 0 or 1
};

template <bool kMaps, class T>
T2ILAYERS_INLINE Point<T> modulated(Vec<T> xhat, const Modulation<T>& m, int64_t i, int64_t some, const Rows<T>& r) {
  if constexpr (kMaps)
    return point<T>(xhat, load(m.gamma + i, some), load(m.beta + i, some), m.absolute);
  const Vec<T> mask = load(m.mask + i, some);
  return point<T>(xhat, mask, base<T>(mask, m.absolute), r);
}

// The parameters of a call, as all passes read them.
template <class S, class T>
struct Parameters {
  const Planes& planes;
  const void *gamma, *beta, *mask;
  const Scale<T>* scales;

  Row<T> row(int64_t n, int64_t c) const {
    const Problem& p = planes.p;
    const Scale<T> s = p.normalized() ? scales[statistic(p, n, c)] : Scale<T>::none();
    const int64_t at = n * p.c + c;
    if (p.maps) return {s.high, s.offset, s.rstd, 0, 0, 0};
    const T scale = value<T>(gamma, p.gamma_dtype, at);
    return {s.high, s.offset, s.rstd, scale, value<T>(beta, p.beta_dtype, at), scale - T(p.absolute)};
  }

  // Of `count` pixels of sample n from `at` on; all channels have it.
  Modulation<T> of_sample(Workspace<S, T>& work, int64_t n, int64_t at, int64_t count) const {
    const Problem& p = planes.p;
    if (p.maps) return {nullptr, nullptr, nullptr, T(p.absolute)};
    return {mask ? fetch(mask, p.mask_dtype, n * p.out_pixels() + at, count, work.mask()) : work.ones(), nullptr,
            nullptr, T(p.absolute)};
  }
  // And what a channel has besides.
  void add_row(Modulation<T>& to, Workspace<S, T>& work, int64_t row, int64_t at, int64_t count) const {
    const Problem& p = planes.p;
    if (!p.maps) return;
    to.gamma = fetch(gamma, p.gamma_dtype, row * p.out_pixels() + at, count, work.gamma());
    to.beta = fetch(beta, p.beta_dtype, row * p.out_pixels() + at, count, work.beta());
  }
};

// prepare(n0, n1, c0, c1), then reduce(work, n, segment, c0, c1) for every part of a statistic, then
// finish(n0, n1, c0, c1), then apply(work, n, segment, c0, c1). What is computed does not depend on the number of
// threads, only when. With `independent`, apply does not need what finish leaves.
template <class Work, class Prepare, class Reduce, class Finish, class Apply>
void two_passes(const Planes& planes, Parallel run, int64_t threads, bool independent, const Prepare& prepare,
                const Reduce& reduce, const Finish& finish, const Apply& apply) {
  const Problem& p = planes.p;
  const Blocks blocks(p);
  if (blocks.count() >= threads) {
    parallel(run, blocks.count(), [&](int64_t begin, int64_t end) {
      Work work(planes);
      for (int64_t i = begin; i < end; ++i) {
        const Block b = blocks[i];
        for (int64_t c0 = b.c0; c0 < b.c1; c0 += blocks.closed) {
          const int64_t c1 = smaller(b.c1, c0 + blocks.closed);
          auto each = [&](const auto& pass) T2ILAYERS_LAMBDA {
            for (int64_t n = b.n0; n < b.n1; ++n)
              for (int64_t s = 0; s < planes.segments; ++s) pass(n, s);
          };
          prepare(b.n0, b.n1, c0, c1);
          if (independent) {
            each([&](int64_t n, int64_t s) {
              reduce(work, n, s, c0, c1);
              apply(work, n, s, c0, c1);
            });
            finish(b.n0, b.n1, c0, c1);
          } else {
            each([&](int64_t n, int64_t s) { reduce(work, n, s, c0, c1); });
            finish(b.n0, b.n1, c0, c1);
            each([&](int64_t n, int64_t s) { apply(work, n, s, c0, c1); });
          }
        }
      }
    });
    return;
  }
  auto each = [&](const auto& pass) {
    parallel(run, blocks.per_sample * p.n * planes.segments, [&](int64_t begin, int64_t end) {
      Work work(planes);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t s = i % planes.segments, n = i / planes.segments % p.n;
        const int64_t first = i / planes.segments / p.n * blocks.channels;
        const int64_t last = smaller(p.c, first + blocks.channels);
        for (int64_t c0 = first; c0 < last; c0 += blocks.closed)
          pass(work, n, s, c0, smaller(last, c0 + blocks.closed));
      }
    });
  };
  auto between = [&](const auto& step) {
    parallel(run, blocks.count(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Block b = blocks[i];
        for (int64_t c0 = b.c0; c0 < b.c1; c0 += blocks.closed)
          step(b.n0, b.n1, c0, smaller(b.c1, c0 + blocks.closed));
      }
    });
  };
  between(prepare);
  each(reduce);
  between(finish);
  each(apply);
}

// Sum, and sum of squares, of x - high - low.
template <class T>
struct Powers {
  T first, second;
};
template <class S, class T>
T2ILAYERS_INLINE Powers<T> powers(const S* x, int64_t count, T high, T low) {
  constexpr int64_t L = kLanes<T>;
  const Vec<T> highs = splat<T>(high), lows = splat<T>(low);
  Vec<T> first[4] = {}, second[4] = {};
  auto add = [&](int64_t i, int64_t j) T2ILAYERS_LAMBDA {
    const Vec<T> d = (load_as<T>(x + i, L) - highs) - lows;
    first[j] += d;
    second[j] = fma<T>(d, d, second[j]);
  };
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    T2ILAYERS_UNROLL
    for (int64_t j = 0; j < 4; ++j) add(i + j * L, j);
  for (; i + L <= count; i += L) add(i, 0);
  Powers<T> out{sum<T>((first[0] + first[1]) + (first[2] + first[3])),
                sum<T>((second[0] + second[1]) + (second[2] + second[3]))};
  if (i < count) {
    const Vec<T> rest = load_as<T>(x + i, count - i);
    for (int64_t j = 0; i + j < count; ++j) {
      const T d = (rest[j] - high) - low;
      out.first += d;
      out.second += d * d;
    }
  }
  return out;
}

// Mean and squared deviations of x. The shift by its first value keeps a large mean from costing digits; where that
// value is itself far from the others, the mean found is the shift of a second pass.
template <class T, class S>
__attribute__((noinline)) void moments(const S* x, int64_t count, double* mean, double* m2) {
  const T start = load_as<T>(x, 1)[0];
  Powers<T> of = powers<S, T>(x, count, start, 0);
  *mean = double(start);
  T delta = of.first / T(count);
  if (!(of.first * delta < 8 * (of.second - of.first * delta))) {
    *mean += double(delta);
    of = powers<S, T>(x, count, start, delta);
    delta = of.first / T(count);
  }
  *mean += double(delta);
  *m2 = of.second - of.first * delta;
  if (*m2 - *m2 == 0) return;
  // Not finite: x is not, or the arithmetic has overflown.
  double total = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) total += double(load_as<T>(x + i, 1)[0]);
  *mean = total / double(count);
  for (int64_t i = 0; i < count; ++i) {
    const double d = double(load_as<T>(x + i, 1)[0]) - *mean;
    squares += d * d;
  }
  *m2 = squares;
}

// Sums of K vectors, in the first K lanes.
template <class T, int K>
T2ILAYERS_INLINE Vec<T> sums_of(Vec<T>* v) {
  T2ILAYERS_UNROLL
  for (int many = K; many > 1; many /= 2)
    T2ILAYERS_UNROLL
    for (int j = 0; j < many / 2; ++j) v[j] = sum_pairs<T>(v[2 * j], v[2 * j + 1], AllLanes<T>{});
  T2ILAYERS_UNROLL
  for (int lanes = kLanes<T> / K; lanes > 1; lanes /= 2) v[0] = sum_pairs<T>(v[0], v[0], AllLanes<T>{});
  return v[0];
}

// Moments of K adjacent rows of few pixels, whose horizontal sums would cost more than the rest; means and squared
// deviations from `out` on.
template <int K, class T, class S>
__attribute__((noinline)) void moments_of_rows(const S* x, int64_t count, double* out) {
  Vec<T> start[K], sums[K] = {}, squares[K] = {};
  T2ILAYERS_UNROLL
  for (int j = 0; j < K; ++j) start[j] = splat<T>(load_as<T>(x + j * count, 1)[0]);
  auto deviation = [&](int j, int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    const Vec<T> d = load_as<T>(x + j * count + i, some) - start[j];
    return some == kLanes<T> ? d : first_lanes<T>(d, some);
  };
  for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    T2ILAYERS_UNROLL
    for (int j = 0; j < K; ++j) sums[j] += deviation(j, i, some);
  });
  const Vec<T> delta = sums_of<T, K>(sums) / splat<T>(T(count));
  for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    T2ILAYERS_UNROLL
    for (int j = 0; j < K; ++j) {
      const Vec<T> d = deviation(j, i, some) - splat<T>(delta[j]);
      const Vec<T> inside = some == kLanes<T> ? d : first_lanes<T>(d, some);
      squares[j] = fma<T>(inside, inside, squares[j]);
    }
  });
  const Vec<T> m2 = sums_of<T, K>(squares);
  T2ILAYERS_UNROLL
  for (int j = 0; j < K; ++j) {
    out[2 * j] = double(start[j][0]) + double(delta[j]);
    out[2 * j + 1] = m2[j];
    if (!(m2[j] - m2[j] == 0)) moments<T>(x + j * count, count, out + 2 * j, out + 2 * j + 1);
  }
}

template <class S, class T>
struct PlanesForward {
  const Planes planes;
  const Forward& f;
  double* partial;  // (n, c, segments, 2): means and squared deviations
  Scale<T>* scales;
  const Parameters<S, T> parameters;
  const Activated<T> activated;

  using Work = Workspace<S, T>;

  PlanesForward(const Problem& p, const Forward& f, void* scratch)
      : planes(p), f(f), partial(static_cast<double*>(scratch)),
        scales(reinterpret_cast<Scale<T>*>(partial + p.n * p.c * planes.segments * 2)),
        parameters{planes, f.gamma, f.beta, f.mask, scales}, activated(p) {}

  static int64_t scratch_bytes(const Problem& p) {
    return p.n * p.c * Planes(p).segments * 16 + p.statistics() * sizeof(Scale<T>);
  }

  double* partial_of(int64_t n, int64_t c) const { return partial + (n * planes.p.c + c) * planes.segments * 2; }

  void reduce(Work&, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    constexpr int K = kLanes<T> < kSubBlock ? kLanes<T> : kSubBlock;
    const int64_t pixels = p.pixels();
    if (pixels > 0 && pixels <= kShort)
      for (; c0 + K <= c1; c0 += K)
        moments_of_rows<K, T>(static_cast<const S*>(f.x) + (n * p.c + c0) * pixels, pixels, partial_of(n, c0));
    for (int64_t c = c0; c < c1; ++c) {
      const S* x = static_cast<const S*>(f.x) + (n * p.c + c) * pixels;
      Moments all;
      planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
        const int64_t count = cells * planes.low;
        double mean, m2;
        moments<T>(x + cell * planes.low, count, &mean, &m2);
        all.merge(count, mean, m2);
      });
      partial_of(n, c)[2 * s] = all.mean;
      partial_of(n, c)[2 * s + 1] = all.m2;
    }
  }

  void finish(int64_t n0, int64_t n1, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    for_statistics(p, n0, c0, c1, [&](int64_t k, int64_t first, int64_t last) {
      // body(values, mean, squared deviations) of every part
      auto each = [&](auto body) T2ILAYERS_LAMBDA {
        const double whole = double(planes.segment * planes.low);
        const double rest = double((planes.cells - (planes.segments - 1) * planes.segment) * planes.low);
        for (int64_t n = n0; n < n1; ++n)
          for (int64_t c = first; c < last; ++c) {
            const double* part = partial_of(n, c);
            for (int64_t s = 0; s + 1 < planes.segments; ++s, part += 2) body(whole, part[0], part[1]);
            if (planes.segments) body(rest, part[0], part[1]);
          }
      };
      merge(each, f.mean + k, f.var + k);
      update_running(p, f.running, k, f.mean[k], f.var[k]);
      scales[k] = Scale<T>::of(f.mean[k], f.var[k], p.eps);
    });
  }

  void apply(Work& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    if (planes.p.maps)
      apply_rows<true>(work, n, s, c0, c1);
    else
      apply_rows<false>(work, n, s, c0, c1);
  }

  template <bool kMaps>
  __attribute__((noinline)) void apply_rows(Work& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    const bool stream = leaves_caches<S>(p.n * p.c * p.out_pixels());
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high;
      Modulation<T> m = parameters.of_sample(work, n, at, count);
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t row = n * p.c + c;
        const Rows<T> r = Rows<T>::of(parameters.row(n, c));
        parameters.add_row(m, work, row, at, count);
        const S* x = work.upsampled(
            planes, static_cast<const S*>(f.x) + row * p.pixels() + cell * planes.low, cells, 0);
        S* y = static_cast<S*>(f.y) + row * p.out_pixels() + at;
        // Copies that nothing else points to: what is behind a pointer is read again after every store.
        const Activated<T> act = activated;
        const Modulation<T> here = m;
        for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
          const Vec<T> z = modulated<kMaps, T>(normalized<T>(load_as<T>(x + i, some), r), here, i, some, r).z;
          put_as<T>(y + i, act(z), some, stream);
        });
      }
    });
    fence(stream);
  }
};

template <class S, class T>
struct PlanesBackward {
  const Planes planes;
  const Blocks blocks;
  const Backward& b;
  double* partial;  // (n, c, segments, 4): sums of dz, dz xhat, dz m, dz m xhat; of maps, of dz a, dz a xhat
  Scale<T>* scales;
  T* partial_dmask;  // (blocks, n, up h, up w), or dmask itself where one block has all channels
  const Parameters<S, T> parameters;
  const Activated<T> activated;
  const double share;

  using Work = Workspace<S, T>;

  PlanesBackward(const Problem& p, const Backward& b, void* scratch)
      : planes(p), blocks(p), b(b), partial(static_cast<double*>(scratch)),
        scales(reinterpret_cast<Scale<T>*>(partial + p.n * p.c * planes.segments * 4)),
        partial_dmask(direct(p) ? static_cast<T*>(b.dmask) : reinterpret_cast<T*>(scales + p.statistics())),
        parameters{planes, b.gamma, b.beta, b.mask, scales}, activated(p), share(share_of(p, b)) {}

  static bool direct(const Problem& p) { return Blocks(p).per_sample == 1 && p.mask_dtype == kType<T>; }
  static int64_t scratch_bytes(const Problem& p) {
    return p.n * p.c * Planes(p).segments * 32 + p.statistics() * sizeof(Scale<T>) +
           (direct(p) || p.maps ? 0 : Blocks(p).per_sample * p.n * p.out_pixels() * sizeof(T));
  }

  double* partial_of(int64_t n, int64_t c) const { return partial + (n * planes.p.c + c) * planes.segments * 4; }

  // With constant statistics, dx besides: it is all that is left to do.
  void reduce(Work& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    if (planes.p.maps) {
      for (int64_t c = c0; c < c1; ++c) reduce_maps(work, n, s, c);
      return;
    }
    const bool first = c0 % blocks.channels == 0;
    int64_t c = c0;
    for (; c + kSubBlock <= c1; c += kSubBlock) reduce_rows<kSubBlock>(work, n, s, c, first && c == c0);
    for (; c < c1; ++c) reduce_rows<1>(work, n, s, c, first && c == c0);
  }

  template <int K>
  __attribute__((noinline)) void reduce_rows(Work& work, int64_t n, int64_t s, int64_t c0, bool overwrite) const {
    const Problem& p = planes.p;
    Row<T> rows[K];
    for (int j = 0; j < K; ++j) rows[j] = parameters.row(n, c0 + j);
    double totals[K][4] = {};
    const int64_t ahead = planes.ahead(n);
    const Activated<T> act = activated;
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high;
      const Modulation<T> modulation = parameters.of_sample(work, n, at, count);
      const T* m = modulation.mask;
      const T absolute = modulation.absolute;
      T* dmask = b.dmask ? partial_dmask + (c0 / blocks.channels * p.n + n) * p.out_pixels() + at : nullptr;
      const S *x[K], *dy[K];
      T2ILAYERS_UNROLL
      for (int j = 0; j < K; ++j) {
        const int64_t row = n * p.c + c0 + j;
        x[j] = work.upsampled(planes, static_cast<const S*>(b.x) + row * p.pixels() + cell * planes.low, cells, j);
        dy[j] = static_cast<const S*>(b.dy) + row * p.out_pixels() + at;
      }
      Vec<T> sums[K][4];
      T2ILAYERS_UNROLL
      for (auto& of_row : sums)  // one by one they stay in registers
        T2ILAYERS_UNROLL
        for (auto& one : of_row) one = Vec<T>{};
      for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        T2ILAYERS_UNROLL
        for (int j = 0; j < K; ++j) {
          __builtin_prefetch(x[j] + i + ahead);
          __builtin_prefetch(dy[j] + i + ahead);
        }
        const Vec<T> mv = load(m + i, some), bv = base<T>(mv, absolute);
        Vec<T> dm = dmask && !overwrite ? load(dmask + i, some) : Vec<T>{};
        T2ILAYERS_UNROLL
        for (int j = 0; j < K; ++j) {
          const Rows<T> r = Rows<T>::of(rows[j]);
          const Point<T> v = point<T>(normalized<T>(load_as<T>(x[j] + i, some), r), mv, bv, r);
          // Past the end dy is loaded as 0, and so is every term.
          const Vec<T> dz = act.through(v.z, load_as<T>(dy[j] + i, some)), dzm = dz * mv;
          sums[j][0] += dz;
          sums[j][1] = fma<T>(dz, v.xhat, sums[j][1]);
          sums[j][2] += dzm;
          sums[j][3] = fma<T>(dzm, v.xhat, sums[j][3]);
          dm = fma<T>(dz, shift<T>(v.xhat, r), dm);
        }
        if (dmask) store(dmask + i, dm, some);
      });
      add_sums<T, 4 * K>(&sums[0][0], &totals[0][0]);
      if (b.constant && b.input)
        for (int j = 0; j < K; ++j) apply_chunk<false>(n, c0 + j, cell, cells, modulation);
    });
    fence(b.constant && b.input);
    for (int j = 0; j < K; ++j)
      for (int q = 0; q < 4; ++q) partial_of(n, c0 + j)[4 * s + q] = totals[j][q];
  }

  __attribute__((noinline)) void reduce_maps(Work& work, int64_t n, int64_t s, int64_t c) const {
    const Problem& p = planes.p;
    const Rows<T> r = Rows<T>::of(parameters.row(n, c));
    const int64_t row = n * p.c + c;
    double totals[2] = {};
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = row * p.out_pixels() + cell * planes.high;
      Modulation<T> m = parameters.of_sample(work, n, cell * planes.high, count);
      parameters.add_row(m, work, row, cell * planes.high, count);
      const S* x = work.upsampled(
          planes, static_cast<const S*>(b.x) + row * p.pixels() + cell * planes.low, cells, 0);
      const S* dy = static_cast<const S*>(b.dy) + at;
      T* dgamma = in_place(b.dgamma, p.gamma_dtype, at, work.dgamma());
      T* dbeta = in_place(b.dbeta, p.beta_dtype, at, work.dbeta());
      Vec<T> sums[2] = {};
      for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        const Point<T> v = modulated<true, T>(normalized<T>(load_as<T>(x + i, some), r), m, i, some, r);
        const Vec<T> dz = activated.through(v.z, load_as<T>(dy + i, some)), dza = dz * v.a;
        store(dbeta + i, dz, some);
        store(dgamma + i, dz * v.xhat, some);
        sums[0] += dza;
        sums[1] = fma<T>(dza, v.xhat, sums[1]);
      });
      write_back(dgamma, b.dgamma, p.gamma_dtype, at, count);
      write_back(dbeta, b.dbeta, p.beta_dtype, at, count);
      T2ILAYERS_UNROLL
      for (int q = 0; q < 2; ++q) totals[q] += sum<T>(sums[q]);
      if (b.constant && b.input) apply_chunk<true>(n, c, cell, cells, m);
    });
    for (int q = 0; q < 2; ++q) partial_of(n, c)[4 * s + q] = totals[q];
  }

  void finish(int64_t n0, int64_t n1, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    for_statistics(p, n0, c0, c1, [&](int64_t k, int64_t first, int64_t last) {
      double s1 = 0, s2 = 0;
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = first; c < last; ++c) {
          double q[4] = {};
          for (int64_t s = 0; s < planes.segments; ++s)
            for (int j = 0; j < 4; ++j) q[j] += partial_of(n, c)[4 * s + j];
          finish_row(p, b, n * p.c + c, q, &s1, &s2);
        }
      if (!p.normalized()) return;
      b.sums[k] = s1;
      b.sums[p.statistics() + k] = s2;
    });
  }

  void apply(Work& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high;
      Modulation<T> m = parameters.of_sample(work, n, at, count);
      for (int64_t c = c0; c < c1; ++c) {
        parameters.add_row(m, work, n * p.c + c, at, count);
        if (p.maps)
          apply_chunk<true>(n, c, cell, cells, m);
        else
          apply_chunk<false>(n, c, cell, cells, m);
      }
    });
    fence(leaves_caches<S>(p.n * p.c * p.pixels()));
  }

  template <bool kMaps>
  __attribute__((noinline)) void apply_chunk(int64_t n, int64_t c, int64_t cell, int64_t cells,
                                             const Modulation<T>& modulation) const {
    const Problem& p = planes.p;
    const Activated<T> act = activated;
    const Modulation<T> m = modulation;
    const int64_t row = n * p.c + c;
    const Row<T> one = parameters.row(n, c);
    const Rows<T> r = Rows<T>::of(one);
    const Correction<T> k(p, b, share, n, c, one.rstd);
    const Vec<T> k1 = splat<T>(-k.k1), k2 = splat<T>(-k.k2);
    const S* x = static_cast<const S*>(b.x) + row * p.pixels() + cell * planes.low;
    const S* dy = static_cast<const S*>(b.dy) + row * p.out_pixels() + cell * planes.high;
    S* dx = static_cast<S*>(b.dx) + row * p.pixels() + cell * planes.low;
    const bool stream = leaves_caches<S>(p.n * p.c * p.pixels());
    // Where statistics are constant, xhat has no part in it: it may be inf.
    auto result = [&](Vec<T> dxhat, Vec<T> xhat) T2ILAYERS_LAMBDA {
      return b.constant ? dxhat * r.rstd : fma<T>(dxhat, r.rstd, fma<T>(xhat, k2, k1));
    };
    if (p.up == 1) {
      for_vectors<T>(cells, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        const Point<T> v = modulated<kMaps, T>(normalized<T>(load_as<T>(x + i, some), r), m, i, some, r);
        put_as<T>(dx + i, result(act.through(v.z, load_as<T>(dy + i, some)) * v.a, v.xhat), some, stream);
      });
      return;
    }
    for (int64_t line = 0; line < cells; ++line)
      for_vectors<T>(p.w, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        // The copies of these pixels are two vectors in each of two adjacent lines.
        const Vec<T> xhat = normalized<T>(load_as<T>(x + line * p.w + i, some), r);
        const int64_t first = smaller(2 * some, kLanes<T>), second = 2 * some - first;
        auto half = [&](auto from, int64_t offset, int64_t part) T2ILAYERS_LAMBDA {
          const Vec<T> wide = twice<T, decltype(from)::value>(xhat, AllLanes<T>{});
          Vec<T> total{};
          for (int64_t below = 0; below < 2; ++below) {
            const int64_t j = (2 * line + below) * 2 * p.w + 2 * i + offset;
            const Point<T> v = modulated<kMaps, T>(wide, m, j, part, r);
            total = fma<T>(act.through(v.z, load_as<T>(dy + j, part)), v.a, total);
          }
          return total;
        };
        const Vec<T> left = half(Constant<0>{}, 0, first);
        const Vec<T> right = second ? half(Constant<kLanes<T> / 2>{}, kLanes<T>, second) : Vec<T>{};
        put_as<T>(dx + line * p.w + i, result(sum_pairs<T>(left, right, AllLanes<T>{}), xhat), some, stream);
      });
  }

  void finish_dmask(Parallel run) const {
    const Problem& p = planes.p;
    if (!b.dmask || direct(p)) return;
    const int64_t all = p.n * p.out_pixels();
    constexpr int64_t some = 128;  // pixels: few, as a small map has only so many and each is a sum of many parts
    parallel(run, ceil_div(all, some), [&](int64_t begin, int64_t end) {
      const T* from = partial_dmask + begin * some;
      for_vectors<T>(smaller(all, end * some) - begin * some, [&](int64_t i, int64_t lanes) T2ILAYERS_LAMBDA {
        Vec<T> total{};
        for (int64_t part = 0; part < blocks.per_sample; ++part) total += load(from + part * all + i, lanes);
        store_any<T>(total, b.dmask, p.mask_dtype, begin * some + i, lanes);
      });
    });
  }
};

template <class S, class T>
void planes_statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, Parallel run,
                       int64_t threads) {
  Forward f{};
  f.x = x;
  f.mean = mean;
  f.var = var;
  const PlanesForward<S, T> pass(p, f, scratch);
  two_passes<Workspace<S, T>>(
      pass.planes, run, threads, false, [](auto&&...) {}, [&](auto&&... a) { pass.reduce(a...); },
      [&](auto&&... a) { pass.finish(a...); }, [](auto&&...) {});
}

template <class S, class T>
void planes_forward(const Problem& p, const Forward& f, void* scratch, Parallel run, int64_t threads) {
  const PlanesForward<S, T> pass(p, f, scratch);
  two_passes<Workspace<S, T>>(
      pass.planes, run, threads, f.given,
      [&](auto&&... a) {
        if (f.given) fill_scales(p, f.mean, f.var, pass.scales, a...);
      },
      [&](auto&&... a) {
        if (!f.given) pass.reduce(a...);
      },
      [&](auto&&... a) {
        if (!f.given) pass.finish(a...);
      },
      [&](auto&&... a) { pass.apply(a...); });
}

template <class S, class T>
void planes_backward(const Problem& p, const Backward& b, void* scratch, Parallel run, int64_t threads) {
  const PlanesBackward<S, T> pass(p, b, scratch);
  const bool at_once = b.constant && b.reduce;  // then reduce gives dx too
  two_passes<Workspace<S, T>>(
      pass.planes, run, threads, b.constant || !b.reduce,
      [&](auto&&... a) { fill_scales(p, b.mean, b.var, pass.scales, a...); },
      [&](auto&&... a) {
        if (b.reduce) pass.reduce(a...);
      },
      [&](auto&&... a) {
        if (b.reduce) pass.finish(a...);
      },
      [&](auto&&... a) {
        if (b.input && !at_once) pass.apply(a...);
      });
  if (b.reduce) pass.finish_dmask(run);
}
