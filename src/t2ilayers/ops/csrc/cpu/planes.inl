// Planes of pixels, one a channel. Statistics close over few channels, so those are taken through both passes
// while they are in cache: each map comes from memory once.

constexpr int64_t kSubBlock = 4;     // channels that share a mask vector, and go through both passes together
constexpr int64_t kMaskBlock = 16;   // channels behind one partial mask gradient
constexpr int64_t kChunk = 2048;     // pixels at a time, so that a row and its mask stay in the first cache
constexpr int64_t kSegment = 65536;  // pixels behind one partial sum

// Pixels are walked in cells: a pixel, or with upsampling a row of x, which is two adjacent rows of y.
struct Planes {
  const Problem& p;
  int64_t low, high;  // pixels of x and of y in a cell
  int64_t cells, chunk, segment, segments;

  explicit Planes(const Problem& p)
      : p(p),
        low(p.up == 1 ? 1 : p.w),
        high(p.up == 1 ? 1 : 4 * p.w),
        cells(p.up == 1 ? p.pixels() : p.h),
        chunk(larger(1, kChunk / larger(high, 1))),
        segment(larger(1, kSegment / larger(high, 1))),
        segments(ceil_div(cells, segment)) {}

  int64_t chunk_pixels() const { return chunk * high; }

  // From a plane of sample n to that of the next, if it should be asked for while this one is worked on: if planes are
  // so short that the hardware, which sees them follow one another, has no time to. 0 asks for what is there.
  template <class S, class T>
  int64_t ahead(int64_t n) const {
    return sizeof(S) == sizeof(T) && p.up == 1 && cells <= chunk && n + 1 < p.n ? p.c * p.pixels() : 0;
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
  const int64_t width = p.groups ? p.c / p.groups : 1;
  for (int64_t c = c0; c < c1; c += width) body(p.groups ? n0 * p.groups + c / width : c, c, c + width);
}

// The scales of these channels' statistics, computed once: a square root and a division for each row would show on
// small maps.
template <class T>
void fill_scales(const Problem& p, const double* mean, const double* var, Scale<T>* scales, int64_t n0, int64_t n1,
                 int64_t c0, int64_t c1) {
  if (n0 == n1) return;
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
        closed(p.groups && p.groups < p.c ? p.c / p.groups : kSubBlock),
        channels(closed * larger(1, kMaskBlock / closed)),
        per_sample(ceil_div(p.c, channels)) {}

  int64_t count() const { return per_sample * (p.groups ? p.n : 1); }
  Block operator[](int64_t i) const {
    const int64_t c0 = i % per_sample * channels, n = i / per_sample;
    return {p.groups ? n : 0, p.groups ? n + 1 : p.n, c0, smaller(p.c, c0 + channels)};
  }
};

// A thread's chunk of everything, for what cannot be read or written in place.
template <class T>
struct Workspace {
  const int64_t size;
  Buffer<T> memory;
  explicit Workspace(const Planes& planes) : size(planes.chunk_pixels()), memory(size * (2 * kSubBlock + 2)) {
    for (int64_t i = 0; i < size; ++i) ones()[i] = 1;
  }
  T* x(int64_t j) { return memory.data + j * size; }
  T* dy(int64_t j) { return memory.data + (kSubBlock + j) * size; }
  T* out() { return memory.data + 2 * kSubBlock * size; }
  T* ones() { return memory.data + (2 * kSubBlock + 1) * size; }
};

template <class T>
T2ILAYERS_INLINE const T* fetch(const T* from, int64_t, T*) {
  return from;
}
template <class S, class T>
T2ILAYERS_INLINE const T* fetch(const S* from, int64_t count, T* buffer) {
  for (int64_t i = 0; i < count; ++i) buffer[i] = widen(from[i]);
  return buffer;
}

// Cells of x as pixels of y.
template <class S, class T>
T2ILAYERS_INLINE const T* fetch_upsampled(const Planes& planes, const S* from, int64_t cells, T* buffer) {
  if (planes.p.up == 1) return fetch(from, cells, buffer);
  const int64_t w = planes.p.w;
  for (int64_t row = 0; row < cells; ++row) {
    T* to = buffer + row * 4 * w;
    for (int64_t i = 0; i < w; ++i) to[2 * i] = to[2 * i + 1] = widen(from[row * w + i]);
    __builtin_memcpy(to + 2 * w, to, 2 * w * sizeof(T));
  }
  return buffer;
}

// prepare(n0, n1, c0, c1), then reduce(work, n, segment, c0, c1) for every part of a statistic, then
// finish(n0, n1, c0, c1), then apply(work, n, segment, c0, c1). What is computed does not depend on the number of
// threads, only when. With `independent`, apply does not need what finish leaves.
template <class T, class Prepare, class Reduce, class Finish, class Apply>
void two_passes(const Planes& planes, Parallel run, int64_t threads, bool independent, const Prepare& prepare,
                const Reduce& reduce, const Finish& finish, const Apply& apply) {
  const Problem& p = planes.p;
  const Blocks blocks(p);
  if (blocks.count() >= threads) {
    parallel(run, blocks.count(), [&](int64_t begin, int64_t end) {
      Workspace<T> work(planes);
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
      Workspace<T> work(planes);
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
template <class T>
T2ILAYERS_INLINE Powers<T> powers(const T* x, int64_t count, T high, T low) {
  constexpr int64_t L = kLanes<T>;
  const Vec<T> highs = splat<T>(high), lows = splat<T>(low);
  Vec<T> first[4] = {}, second[4] = {};
  auto add = [&](int64_t i, int64_t j) T2ILAYERS_LAMBDA {
    const Vec<T> d = (load(x + i, L) - highs) - lows;
    first[j] += d;
    second[j] = fma<T>(d, d, second[j]);
  };
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    for (int64_t j = 0; j < 4; ++j) add(i + j * L, j);
  for (; i + L <= count; i += L) add(i, 0);
  Powers<T> out{sum<T>((first[0] + first[1]) + (first[2] + first[3])),
                sum<T>((second[0] + second[1]) + (second[2] + second[3]))};
  for (; i < count; ++i) {
    const T d = (x[i] - high) - low;
    out.first += d;
    out.second += d * d;
  }
  return out;
}

// Mean and squared deviations of x. The shift by its first value keeps a large mean from costing digits; where that
// value is itself far from the others, the mean found is the shift of a second pass.
template <class T>
T2ILAYERS_INLINE void moments(const T* x, int64_t count, double* mean, double* m2) {
  Powers<T> of = powers<T>(x, count, x[0], 0);
  *mean = double(x[0]);
  T delta = of.first / T(count);
  if (!(of.first * delta < 8 * (of.second - of.first * delta))) {
    *mean += double(delta);
    of = powers<T>(x, count, x[0], delta);
    delta = of.first / T(count);
  }
  *mean += double(delta);
  *m2 = of.second - of.first * delta;
}

template <class S, class T>
struct PlanesForward {
  const Planes planes;
  const Forward& f;
  double* partial;  // (n, c, segments, 2) means and squared deviations
  Scale<T>* scales;

  PlanesForward(const Problem& p, const Forward& f, void* scratch)
      : planes(p), f(f), partial(static_cast<double*>(scratch)),
        scales(reinterpret_cast<Scale<T>*>(partial + p.n * p.c * planes.segments * 2)) {}

  static int64_t scratch_bytes(const Problem& p) {
    return p.n * p.c * Planes(p).segments * 16 + p.statistics() * sizeof(Scale<T>);
  }

  double* partial_of(int64_t n, int64_t c) const { return partial + (n * planes.p.c + c) * planes.segments * 2; }

  void reduce(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    for (int64_t c = c0; c < c1; ++c) {
      const S* x = static_cast<const S*>(f.x) + (n * p.c + c) * p.pixels();
      Moments all;
      planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
        const int64_t count = cells * planes.low;
        double mean, m2;
        moments(fetch(x + cell * planes.low, count, work.x(0)), count, &mean, &m2);
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
        for (int64_t n = n0; n < n1; ++n)
          for (int64_t c = first; c < last; ++c)
            for (int64_t s = 0; s < planes.segments; ++s) {
              const int64_t cells = smaller(planes.cells, (s + 1) * planes.segment) - s * planes.segment;
              const double* part = partial_of(n, c) + 2 * s;
              body(double(cells * planes.low), part[0], part[1]);
            }
      };
      // Two passes over few numbers: without the divisions of merging part by part, which would show on small maps.
      double count = 0, total = 0, m2 = 0;
      each([&](double values, double mean, double) T2ILAYERS_LAMBDA { count += values, total += values * mean; });
      const double mean = count ? total / count : 0;
      each([&](double values, double part, double squares) T2ILAYERS_LAMBDA {
        m2 += squares + values * (part - mean) * (part - mean);
      });
      f.mean[k] = mean;
      f.var[k] = count ? m2 / count : 0;
      update_running(p, f.running, k, f.mean[k], f.var[k]);
      scales[k] = Scale<T>::of(f.mean[k], f.var[k], p.eps);
    });
  }

  void apply(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    const Vec<T> slope = splat<T>(T(p.slope));
    const bool stream = leaves_caches<S, T>(p.n * p.c * p.out_pixels());
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high;
      const T* mask = f.mask ? static_cast<const T*>(f.mask) + n * p.out_pixels() + at : work.ones();
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t row = n * p.c + c;
        const Scale<T>& scale = scales[statistic(p, n, c)];
        const Row<T> r{scale.high, scale.offset, scale.rstd, static_cast<const T*>(f.gamma)[row],
                       static_cast<const T*>(f.beta)[row]};
        const S* from = static_cast<const S*>(f.x) + row * p.pixels() + cell * planes.low;
        const T* x = fetch_upsampled(planes, from, cells, work.x(0));
        S* y = static_cast<S*>(f.y) + row * p.out_pixels() + at;
        T* to = in_place(y, work.out());
        for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
          const Vec<T> z = affine<T>(load(x + i, some), load(mask + i, some), r).z;
          put(to + i, activate<T>(z, z, slope), some, stream);
        });
        write_back(to, y, count);
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
  double* partial;   // (n, c, segments, 4): sums of dz, dz xhat, dz m, dz m xhat
  Scale<T>* scales;
  T* partial_dmask;  // (blocks, n, up h, up w), or dmask itself where one block has all channels

  PlanesBackward(const Problem& p, const Backward& b, void* scratch)
      : planes(p), blocks(p), b(b), partial(static_cast<double*>(scratch)),
        scales(reinterpret_cast<Scale<T>*>(partial + p.n * p.c * planes.segments * 4)),
        partial_dmask(blocks.per_sample > 1 && b.dmask ? reinterpret_cast<T*>(scales + p.statistics())
                                                       : static_cast<T*>(b.dmask)) {}

  static int64_t scratch_bytes(const Problem& p) {
    const int64_t parts = Blocks(p).per_sample;
    return p.n * p.c * Planes(p).segments * 32 + p.statistics() * sizeof(Scale<T>) +
           (parts > 1 ? parts * p.n * p.out_pixels() * sizeof(T) : 0);
  }

  double* partial_of(int64_t n, int64_t c) const { return partial + (n * planes.p.c + c) * planes.segments * 4; }

  Row<T> row(int64_t n, int64_t c) const {
    const int64_t at = n * planes.p.c + c;
    const Scale<T>& scale = scales[statistic(planes.p, n, c)];
    return {scale.high, scale.offset, scale.rstd, static_cast<const T*>(b.gamma)[at],
            static_cast<const T*>(b.beta)[at]};
  }

  const T* mask(Workspace<T>& work, int64_t n, int64_t at) const {
    return b.mask ? static_cast<const T*>(b.mask) + n * planes.p.out_pixels() + at : work.ones();
  }

  void reduce(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const bool first = c0 % blocks.channels == 0;
    int64_t c = c0;
    for (; c + kSubBlock <= c1; c += kSubBlock) reduce_rows<kSubBlock>(work, n, s, c, first && c == c0);
    for (; c < c1; ++c) reduce_rows<1>(work, n, s, c, first && c == c0);
  }

  template <int K>
  void reduce_rows(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, bool overwrite) const {
    const Problem& p = planes.p;
    const Vec<T> slope = splat<T>(T(p.slope));
    Row<T> rows[K];
    for (int j = 0; j < K; ++j) rows[j] = row(n, c0 + j);
    double totals[K][4] = {};
    const int64_t ahead = planes.ahead<S, T>(n);
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high;
      const T* m = mask(work, n, at);
      T* dmask = b.dmask ? partial_dmask + (c0 / blocks.channels * p.n + n) * p.out_pixels() + at : nullptr;
      const T *x[K], *dy[K];
      for (int j = 0; j < K; ++j) {
        const int64_t at_row = n * p.c + c0 + j;
        x[j] = fetch_upsampled(
            planes, static_cast<const S*>(b.x) + at_row * p.pixels() + cell * planes.low, cells, work.x(j));
        dy[j] = fetch(static_cast<const S*>(b.dy) + at_row * p.out_pixels() + at, count, work.dy(j));
      }
      Vec<T> sums[K][4];
      for (auto& of_row : sums)  // one by one they stay in registers
        for (auto& one : of_row) one = Vec<T>{};
      for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        for (int j = 0; j < K; ++j) {
          __builtin_prefetch(x[j] + i + ahead);
          __builtin_prefetch(dy[j] + i + ahead);
        }
        const Vec<T> mv = load(m + i, some);
        Vec<T> dm = dmask && !overwrite ? load(dmask + i, some) : Vec<T>{};
        for (int j = 0; j < K; ++j) {
          const Affine<T> v = affine<T>(load(x[j] + i, some), mv, rows[j]);
          // Past the end dy is loaded as 0, and so is every term.
          const Vec<T> dz = activate<T>(v.z, load(dy[j] + i, some), slope), dzm = dz * mv;
          sums[j][0] += dz;
          sums[j][1] = fma<T>(dz, v.xhat, sums[j][1]);
          sums[j][2] += dzm;
          sums[j][3] = fma<T>(dzm, v.xhat, sums[j][3]);
          dm = fma<T>(dz, v.shift, dm);
        }
        if (dmask) store(dmask + i, dm, some);
      });
      add_sums<T, 4 * K>(&sums[0][0], &totals[0][0]);
    });
    for (int j = 0; j < K; ++j)
      for (int q = 0; q < 4; ++q) partial_of(n, c0 + j)[4 * s + q] = totals[j][q];
  }

  void finish(int64_t n0, int64_t n1, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    for_statistics(p, n0, c0, c1, [&](int64_t k, int64_t first, int64_t last) {
      double s1 = 0, s2 = 0;
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = first; c < last; ++c) {
          const double* part = partial_of(n, c);
          double dz = 0, dz_xhat = 0, dbeta = 0, dgamma = 0;
          for (int64_t s = 0; s < planes.segments; ++s) {
            dz += part[4 * s];
            dz_xhat += part[4 * s + 1];
            dbeta += part[4 * s + 2];
            dgamma += part[4 * s + 3];
          }
          const double gamma = static_cast<const T*>(b.gamma)[n * p.c + c];
          s1 += dz + gamma * dbeta;
          s2 += dz_xhat + gamma * dgamma;
          static_cast<T*>(b.dbeta)[n * p.c + c] = T(dbeta);
          static_cast<T*>(b.dgamma)[n * p.c + c] = T(dgamma);
        }
      b.sums[k] = s1;
      b.sums[p.statistics() + k] = s2;
    });
  }

  void apply(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    const Vec<T> slope = splat<T>(T(p.slope));
    // Sums of this call are divided by the count; those from outside were.
    const double scale = b.constant ? 0 : b.reduce ? 1.0 / double(p.count()) : 1;
    const bool stream = leaves_caches<S, T>(p.n * p.c * p.pixels());
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high, low_count = cells * planes.low;
      const T* m = mask(work, n, at);
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t at_row = n * p.c + c, k = statistic(p, n, c);
        const Row<T> r = row(n, c);
        // dx = dz rstd (1 + gamma m) - rstd k1 - xhat rstd k2
        const Vec<T> rstd = splat<T>(r.rstd), gain = splat<T>(r.rstd * r.gamma);
        const Vec<T> k1 = splat<T>(b.constant ? T(0) : T(-b.sums[k] * scale * r.rstd));
        const Vec<T> k2 = splat<T>(b.constant ? T(0) : T(-b.sums[p.statistics() + k] * scale * r.rstd));
        const S* low = static_cast<const S*>(b.x) + at_row * p.pixels() + cell * planes.low;
        const T* x = fetch(low, low_count, work.x(0));
        const T* dy = fetch(static_cast<const S*>(b.dy) + at_row * p.out_pixels() + at, count, work.dy(0));
        S* dx = static_cast<S*>(b.dx) + at_row * p.pixels() + cell * planes.low;
        T* to = in_place(dx, work.out());
        auto add = [&](Vec<T> total, Vec<T> z, Vec<T> mv, Vec<T> dyv) T2ILAYERS_LAMBDA {
          return fma<T>(activate<T>(z, dyv, slope), fma<T>(gain, mv, rstd), total);
        };
        if (p.up == 1) {
          for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
            const Vec<T> mv = load(m + i, some);
            const Affine<T> v = affine<T>(load(x + i, some), mv, r);
            put(to + i, add(fma<T>(v.xhat, k2, k1), v.z, mv, load(dy + i, some)), some, stream);
          });
        } else {
          for (int64_t line = 0; line < cells; ++line)
            for_vectors<T>(p.w, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
              // The copies of these pixels are two vectors in each of two adjacent lines, all of one xhat and shift.
              const Affine<T> v = affine<T>(load(x + line * p.w + i, some), Vec<T>{}, r);
              const int64_t first = smaller(2 * some, kLanes<T>), second = 2 * some - first;
              auto half = [&](auto from, int64_t offset, int64_t part) T2ILAYERS_LAMBDA {
                const Vec<T> xhat = twice<T, decltype(from)::value>(v.xhat, AllLanes<T>{});
                const Vec<T> shift = twice<T, decltype(from)::value>(v.shift, AllLanes<T>{});
                Vec<T> total{};
                for (int64_t below = 0; below < 2; ++below) {
                  const int64_t j = (2 * line + below) * 2 * p.w + 2 * i + offset;
                  const Vec<T> mv = load(m + j, part);
                  total = add(total, fma<T>(mv, shift, xhat), mv, load(dy + j, part));
                }
                return total;
              };
              const Vec<T> left = half(Constant<0>{}, 0, first);
              const Vec<T> right = second ? half(Constant<kLanes<T> / 2>{}, kLanes<T>, second) : Vec<T>{};
              const Vec<T> total = sum_pairs<T>(left, right, AllLanes<T>{});
              store(to + line * p.w + i, total + fma<T>(v.xhat, k2, k1), some);
            });
        }
        write_back(to, dx, low_count);
      }
    });
    fence(stream);
  }

  void finish_dmask(Parallel run) const {
    if (!b.dmask || blocks.per_sample == 1) return;
    const int64_t all = planes.p.n * planes.p.out_pixels();
    constexpr int64_t some = 128;  // pixels: few, as a small map has only so many and each is a sum of many parts
    parallel(run, ceil_div(all, some), [&](int64_t begin, int64_t end) {
      const T* from = partial_dmask + begin * some;
      T* to = static_cast<T*>(b.dmask) + begin * some;
      for_vectors<T>(smaller(all, end * some) - begin * some, [&](int64_t i, int64_t lanes) T2ILAYERS_LAMBDA {
        Vec<T> total{};
        for (int64_t part = 0; part < blocks.per_sample; ++part) total += load(from + part * all + i, lanes);
        store(to + i, total, lanes);
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
  two_passes<T>(
      pass.planes, run, threads, false, [](auto&&...) {}, [&](auto&&... a) { pass.reduce(a...); },
      [&](auto&&... a) { pass.finish(a...); }, [](auto&&...) {});
}

template <class S, class T>
void planes_forward(const Problem& p, const Forward& f, void* scratch, Parallel run, int64_t threads) {
  const PlanesForward<S, T> pass(p, f, scratch);
  two_passes<T>(
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
  two_passes<T>(
      pass.planes, run, threads, b.constant || !b.reduce,
      [&](auto&&... a) { fill_scales(p, b.mean, b.var, pass.scales, a...); },
      [&](auto&&... a) {
        if (b.reduce) pass.reduce(a...);
      },
      [&](auto&&... a) {
        if (b.reduce) pass.finish(a...);
      },
      [&](auto&&... a) {
        if (b.input) pass.apply(a...);
      });
  if (b.reduce) pass.finish_dmask(run);
}
