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
