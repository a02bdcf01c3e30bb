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

// reduce(work, n, segment, c0, c1) for every part of a statistic, then finish(n0, n1, c0, c1), then
// apply(work, n, segment, c0, c1). What is computed does not depend on the number of threads, only when.
// With `independent`, apply does not need what finish leaves.
template <class T, class Reduce, class Finish, class Apply>
void two_passes(const Planes& planes, Parallel run, int64_t threads, bool independent, const Reduce& reduce,
                const Finish& finish, const Apply& apply) {
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
  each(reduce);
  parallel(run, blocks.count(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Block b = blocks[i];
      for (int64_t c0 = b.c0; c0 < b.c1; c0 += blocks.closed)
        finish(b.n0, b.n1, c0, smaller(b.c1, c0 + blocks.closed));
    }
  });
  each(apply);
}

// Mean and squared deviations of x, shifted by its first value so that a large mean costs no digits.
template <class T>
T2ILAYERS_INLINE void moments(const T* x, int64_t count, double* mean, double* m2) {
  constexpr int64_t L = kLanes<T>;
  const Vec<T> shift = splat<T>(x[0]);
  Vec<T> total[4] = {};
  const int64_t whole = count / L * L, unrolled = count / (4 * L) * (4 * L);
  for (int64_t i = 0; i < unrolled; i += 4 * L)
    for (int64_t j = 0; j < 4; ++j) total[j] += load(x + i + j * L, L) - shift;
  for (int64_t i = unrolled; i < whole; i += L) total[0] += load(x + i, L) - shift;
  T sum_of = sum<T>((total[0] + total[1]) + (total[2] + total[3]));
  for (int64_t i = whole; i < count; ++i) sum_of += x[i] - x[0];
  const T delta = sum_of / T(count);
  const Vec<T> deltas = splat<T>(delta);
  Vec<T> squares[4] = {};
  auto square = [&](int64_t i, Vec<T> from) T2ILAYERS_LAMBDA {
    const Vec<T> d = (load(x + i, L) - shift) - deltas;
    return fma<T>(d, d, from);
  };
  for (int64_t i = 0; i < unrolled; i += 4 * L)
    for (int64_t j = 0; j < 4; ++j) squares[j] = square(i + j * L, squares[j]);
  for (int64_t i = unrolled; i < whole; i += L) squares[0] = square(i, squares[0]);
  T square_of = sum<T>((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (int64_t i = whole; i < count; ++i) {
    const T d = (x[i] - x[0]) - delta;
    square_of += d * d;
  }
  *mean = double(x[0]) + double(delta);
  *m2 = square_of;
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
    auto merge = [&](Moments& all, int64_t n, int64_t c) {
      for (int64_t s = 0; s < planes.segments; ++s) {
        const int64_t cells = smaller(planes.cells, (s + 1) * planes.segment) - s * planes.segment;
        all.merge(cells * planes.low, partial_of(n, c)[2 * s], partial_of(n, c)[2 * s + 1]);
      }
    };
    for_statistics(p, n0, c0, c1, [&](int64_t k, int64_t first, int64_t last) {
      Moments all;
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = first; c < last; ++c) merge(all, n, c);
      f.mean[k] = all.mean;
      f.var[k] = all.count ? all.m2 / all.count : 0;
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
      Vec<T> sums[K][4] = {};
      for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
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
      for (int j = 0; j < K; ++j)
        for (int q = 0; q < 4; ++q) totals[j][q] += sum<T>(sums[j][q]);
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
          double q[4] = {};
          for (int64_t i = 0; i < planes.segments * 4; ++i) q[i % 4] += partial_of(n, c)[i];
          const double gamma = static_cast<const T*>(b.gamma)[n * p.c + c];
          s1 += q[0] + gamma * q[2];
          s2 += q[1] + gamma * q[3];
          static_cast<T*>(b.dbeta)[n * p.c + c] = T(q[2]);
          static_cast<T*>(b.dgamma)[n * p.c + c] = T(q[3]);
        }
      b.sums[k] = s1;
      b.sums[p.statistics() + k] = s2;
    });
  }

  void apply(Workspace<T>& work, int64_t n, int64_t s, int64_t c0, int64_t c1) const {
    const Problem& p = planes.p;
    const Vec<T> slope = splat<T>(T(p.slope)), one = splat<T>(1);
    // Sums of this call are divided by the count; those from outside were.
    const double scale = b.constant ? 0 : b.reduce ? 1.0 / double(p.count()) : 1;
    const bool stream = leaves_caches<S, T>(p.n * p.c * p.pixels());
    planes.for_chunks(s, [&](int64_t cell, int64_t cells) {
      const int64_t count = cells * planes.high, at = cell * planes.high, low_count = cells * planes.low;
      const T* m = mask(work, n, at);
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t at_row = n * p.c + c, k = statistic(p, n, c);
        const Row<T> r = row(n, c);
        const Vec<T> gamma = splat<T>(r.gamma), rstd = splat<T>(r.rstd);
        const Vec<T> k1 = splat<T>(b.constant ? T(0) : T(b.sums[k] * scale));
        const Vec<T> k2 = splat<T>(b.constant ? T(0) : T(b.sums[p.statistics() + k] * scale));
        const S* low = static_cast<const S*>(b.x) + at_row * p.pixels() + cell * planes.low;
        const T* x = fetch(low, low_count, work.x(0));
        const T* dy = fetch(static_cast<const S*>(b.dy) + at_row * p.out_pixels() + at, count, work.dy(0));
        S* dx = static_cast<S*>(b.dx) + at_row * p.pixels() + cell * planes.low;
        T* to = in_place(dx, work.out());
        auto finished = [&](Vec<T> dxhat, Vec<T> xhat) T2ILAYERS_LAMBDA {
          return rstd * fma<T>(-xhat, k2, dxhat - k1);
        };
        auto dxhat = [&](Vec<T> z, Vec<T> mv, Vec<T> dyv) T2ILAYERS_LAMBDA {
          return activate<T>(z, dyv, slope) * fma<T>(gamma, mv, one);
        };
        if (p.up == 1) {
          for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
            const Vec<T> mv = load(m + i, some);
            const Affine<T> v = affine<T>(load(x + i, some), mv, r);
            put(to + i, finished(dxhat(v.z, mv, load(dy + i, some)), v.xhat), some, stream);
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
                  total += dxhat(fma<T>(mv, shift, xhat), mv, load(dy + j, part));
                }
                return total;
              };
              const Vec<T> left = half(Constant<0>{}, 0, first);
              const Vec<T> right = second ? half(Constant<kLanes<T> / 2>{}, kLanes<T>, second) : Vec<T>{};
              const Vec<T> total = sum_pairs<T>(left, right, AllLanes<T>{});
              store(to + line * p.w + i, finished(total, v.xhat), some);
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
    parallel(run, ceil_div(all, kChunk), [&](int64_t begin, int64_t end) {
      T* out = static_cast<T*>(b.dmask);
      for_vectors<T>(smaller(all, end * kChunk) - begin * kChunk, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        Vec<T> total{};
        for (int64_t part = 0; part < blocks.per_sample; ++part)
          total += load(partial_dmask + part * all + begin * kChunk + i, some);
        store(out + begin * kChunk + i, total, some);
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
      pass.planes, run, threads, false, [&](auto&&... a) { pass.reduce(a...); },
      [&](auto&&... a) { pass.finish(a...); }, [](auto&&...) {});
}

template <class S, class T>
void planes_forward(const Problem& p, const Forward& f, void* scratch, Parallel run, int64_t threads) {
  const PlanesForward<S, T> pass(p, f, scratch);
  if (f.given) fill_scales(p, f.mean, f.var, pass.scales, run);
  two_passes<T>(
      pass.planes, run, threads, f.given,
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
  fill_scales(p, b.mean, b.var, pass.scales, run);
  two_passes<T>(
      pass.planes, run, threads, b.constant || !b.reduce,
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
