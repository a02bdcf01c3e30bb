// Channels last: a pixel is a vector of channels. Every pass reads whole pixels, so the mask's gradient is complete
// where it is computed, and sums over pixels go through one partial an item.

constexpr int64_t kItem = 32768;    // values of x in an item
constexpr int64_t kMaxPixels = 256;  // pixels of x in an item
constexpr int64_t kGroup = T2ILAYERS_VECTOR_BYTES == 64 ? 2 : 1;  // vectors of channels at a time, by registers

// Pixels of x in runs. Item i is run i % runs of sample i / runs.
struct Pixels {
  const Problem& p;
  int64_t run, runs;

  explicit Pixels(const Problem& p)
      : p(p),
        run(larger(1, smaller(kMaxPixels, kItem / larger(p.c, 1)))),
        runs(ceil_div(p.pixels(), run)) {}

  int64_t items() const { return p.n * runs; }
  int64_t sample(int64_t item) const { return item / runs; }
  int64_t first(int64_t item) const { return item % runs * run; }
  int64_t count(int64_t item) const { return smaller(p.pixels() - first(item), run); }

  // body(copy's pixel in y) for each copy of a pixel of x.
  template <class Body>
  T2ILAYERS_INLINE void for_copies(int64_t pixel, Body body) const {
    if (p.up == 1) {
      body(pixel);
      return;
    }
    const int64_t corner = pixel / p.w * 4 * p.w + pixel % p.w * 2;
    body(corner);
    body(corner + 1);
    body(corner + 2 * p.w);
    body(corner + 2 * p.w + 1);
  }
};

template <class T, class S>
T2ILAYERS_INLINE Vec<T> load_channels(const S* from, int64_t count) {
  if constexpr (sizeof(S) == sizeof(T)) {
    return load(from, count);
  } else {
    T wide[kLanes<T>] = {};
    for (int64_t i = 0; i < count; ++i) wide[i] = widen(from[i]);
    return load(wide, kLanes<T>);
  }
}

template <class T, class S>
T2ILAYERS_INLINE void store_channels(S* to, Vec<T> v, int64_t count, bool stream) {
  if constexpr (sizeof(S) == sizeof(T)) {
    put(to, v, count, stream);
  } else {
    T wide[kLanes<T>];
    store(wide, v, kLanes<T>);
    for (int64_t i = 0; i < count; ++i) narrow(wide[i], to + i);
  }
}

// Up to kGroup vectors of one sample's channels.
template <class T, int G>
struct Group {
  int64_t c, counts[G];
  Vec<T> high[G], offset[G], rstd[G], gamma[G], beta[G];

  T2ILAYERS_INLINE Affine<T> affine_of(int g, Vec<T> x, Vec<T> m) const {
    return affine<T>(x, m, high[g], offset[g], rstd[g], gamma[g], beta[g]);
  }
};

// Statistics as the formulas take them: (high, offset, rstd; samples or 1; c).
template <class T>
struct Table {
  const Problem& p;
  T* data;

  int64_t samples() const { return p.groups ? p.n : 1; }
  T* at(int64_t what, int64_t n, int64_t c) const {
    return data + (what * samples() + (p.groups ? n : 0)) * p.c + c;
  }
  static int64_t size(const Problem& p) { return 3 * (p.groups ? p.n : 1) * p.c; }

  void fill(const double* mean, const double* var) const {
    for (int64_t n = 0; n < samples(); ++n)
      for (int64_t c = 0; c < p.c; ++c) {
        const int64_t k = statistic(p, n, c);
        const Scale<T> scale = Scale<T>::of(mean[k], var[k], p.eps);
        *at(0, n, c) = scale.high;
        *at(1, n, c) = scale.offset;
        *at(2, n, c) = scale.rstd;
      }
  }

  template <int G>
  T2ILAYERS_INLINE Group<T, G> group(const void* gamma, const void* beta, int64_t n, int64_t c) const {
    Group<T, G> out;
    out.c = c;
    for (int g = 0; g < G; ++g) {
      const int64_t from = c + g * kLanes<T>, count = smaller(kLanes<T>, p.c - from);
      out.counts[g] = count;
      out.high[g] = load(at(0, n, from), count);
      out.offset[g] = load(at(1, n, from), count);
      out.rstd[g] = load(at(2, n, from), count);
      out.gamma[g] = load(static_cast<const T*>(gamma) + n * p.c + from, count);
      out.beta[g] = load(static_cast<const T*>(beta) + n * p.c + from, count);
    }
    return out;
  }
};

// body(vectors, first channel, whether they are whole): full groups, then single vectors, then what is left.
template <class T, class Body>
T2ILAYERS_INLINE void for_groups(int64_t channels, Body body) {
  constexpr int64_t L = kLanes<T>;
  int64_t c = 0;
  for (; c + kGroup * L <= channels; c += kGroup * L) body(Constant<kGroup>{}, c, Constant<true>{});
  for (; c + L <= channels; c += L) body(Constant<1>{}, c, Constant<true>{});
  if (c < channels) body(Constant<1>{}, c, Constant<false>{});
}

// body(statistic, first sample, last sample, first channel, last channel), in parallel.
template <class Body>
void for_each_statistic(const Problem& p, Parallel run, const Body& body) {
  constexpr int64_t some = 16;
  parallel(run, ceil_div(p.statistics(), some), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * some; k < smaller(p.statistics(), end * some); ++k) {
      const int64_t width = p.groups ? p.c / p.groups : 1, n = p.groups ? k / p.groups : 0;
      const int64_t c = p.groups ? k % p.groups * width : k;
      body(k, n, p.groups ? n + 1 : p.n, c, c + width);
    }
  });
}

template <class S, class T>
struct PixelsForward {
  const Pixels pixels;
  const Forward& f;
  Table<T> table;
  double* partial;  // (items, 2, c): means and squared deviations

  PixelsForward(const Problem& p, const Forward& f, void* scratch)
      : pixels(p), f(f), table{p, static_cast<T*>(scratch)},
        partial(reinterpret_cast<double*>(static_cast<char*>(scratch) + padded(Table<T>::size(p) * sizeof(T)))) {}

  static int64_t padded(int64_t bytes) { return ceil_div(bytes, 64) * 64; }
  static int64_t scratch_bytes(const Problem& p) {
    return padded(Table<T>::size(p) * sizeof(T)) + Pixels(p).items() * 2 * p.c * sizeof(double);
  }

  void reduce(int64_t item) const {
    const Problem& p = pixels.p;
    const int64_t count = pixels.count(item);
    const S* x = static_cast<const S*>(f.x) + (pixels.sample(item) * p.pixels() + pixels.first(item)) * p.c;
    double* means = partial + item * 2 * p.c;
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      auto value = [&](int64_t i, int g) T2ILAYERS_LAMBDA {
        return load_channels<T>(x + i * p.c + c + g * kLanes<T>, some);
      };
      Vec<T> shift[G] = {}, delta[G] = {}, total[G] = {}, squares[G] = {};
      for (int g = 0; g < G; ++g) shift[g] = value(0, g);
      for (int64_t i = 0; i < count; ++i)
        for (int g = 0; g < G; ++g) total[g] += value(i, g) - shift[g];
      for (int g = 0; g < G; ++g) delta[g] = total[g] / splat<T>(T(count));
      for (int64_t i = 0; i < count; ++i)
        for (int g = 0; g < G; ++g) {
          const Vec<T> d = (value(i, g) - shift[g]) - delta[g];
          squares[g] = fma<T>(d, d, squares[g]);
        }
      for (int g = 0; g < G; ++g)
        for (int64_t j = 0; j < some; ++j) {
          const int64_t at = c + g * kLanes<T> + j;
          means[at] = double(shift[g][j]) + double(delta[g][j]);
          means[p.c + at] = squares[g][j];
        }
    });
  }

  void finish(Parallel run) const {
    const Problem& p = pixels.p;
    for_each_statistic(p, run, [&](int64_t k, int64_t n0, int64_t n1, int64_t c0, int64_t c1) {
      Moments all;
      for (int64_t item = n0 * pixels.runs; item < n1 * pixels.runs; ++item)
        for (int64_t c = c0; c < c1; ++c) {
          const double* means = partial + item * 2 * p.c + c;
          all.merge(pixels.count(item), means[0], means[p.c]);
        }
      f.mean[k] = all.mean;
      f.var[k] = all.count ? all.m2 / all.count : 0;
      update_running(p, f.running, k, f.mean[k], f.var[k]);
    });
  }

  void apply(int64_t item) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(f.x) + (n * p.pixels() + first) * p.c;
    S* y = static_cast<S*>(f.y) + n * p.out_pixels() * p.c;
    const T* mask = f.mask ? static_cast<const T*>(f.mask) + n * p.out_pixels() : nullptr;
    const Vec<T> slope = splat<T>(T(p.slope));
    const bool stream = leaves_caches<S, T>(p.n * p.c * p.out_pixels());
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(f.gamma, f.beta, n, c);
      for (int64_t i = 0; i < count; ++i) {
        Vec<T> xv[G];
        for (int g = 0; g < G; ++g) xv[g] = load_channels<T>(x + i * p.c + c + g * kLanes<T>, some);
        pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA {
          const Vec<T> m = splat<T>(mask ? mask[copy] : T(1));
          for (int g = 0; g < G; ++g) {
            const Vec<T> z = group.affine_of(g, xv[g], m).z;
            store_channels<T>(y + copy * p.c + c + g * kLanes<T>, activate<T>(z, z, slope), some,
                              stream);
          }
        });
      }
    });
    fence(stream);
  }
};

template <class S, class T>
struct PixelsBackward {
  const Pixels pixels;
  const Backward& b;
  Table<T> table;
  T* partial;  // (items, 4, c): sums of dz, dz xhat, dz m, dz m xhat

  PixelsBackward(const Problem& p, const Backward& b, void* scratch)
      : pixels(p), b(b), table{p, static_cast<T*>(scratch)}, partial(table.data + Table<T>::size(p)) {}

  static int64_t scratch_bytes(const Problem& p) {
    return (Table<T>::size(p) + Pixels(p).items() * 4 * p.c) * sizeof(T);
  }

  void reduce(Buffer<Vec<T>>& dmasks, int64_t item) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(b.x) + (n * p.pixels() + first) * p.c;
    const S* dy = static_cast<const S*>(b.dy) + n * p.out_pixels() * p.c;
    const T* mask = b.mask ? static_cast<const T*>(b.mask) + n * p.out_pixels() : nullptr;
    const Vec<T> slope = splat<T>(T(p.slope));
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(b.gamma, b.beta, n, c);
      Vec<T> sums[G][4] = {};
      int64_t at = 0;
      for (int64_t i = 0; i < count; ++i) {
        Vec<T> xv[G];
        for (int g = 0; g < G; ++g) xv[g] = load_channels<T>(x + i * p.c + c + g * kLanes<T>, some);
        pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA {
          const Vec<T> m = splat<T>(mask ? mask[copy] : T(1));
          Vec<T> dm{};
          for (int g = 0; g < G; ++g) {
            const Affine<T> v = group.affine_of(g, xv[g], m);
            const Vec<T> dyv = load_channels<T>(dy + copy * p.c + c + g * kLanes<T>, some);
            const Vec<T> dz = activate<T>(v.z, dyv, slope), dzm = dz * m;
            sums[g][0] += dz;
            sums[g][1] = fma<T>(dz, v.xhat, sums[g][1]);
            sums[g][2] += dzm;
            sums[g][3] = fma<T>(dzm, v.xhat, sums[g][3]);
            dm = fma<T>(dz, v.shift, dm);
          }
          if (b.dmask) dmasks.data[at] = c ? dmasks.data[at] + dm : dm;
          ++at;
        });
      }
      for (int g = 0; g < G; ++g)
        for (int q = 0; q < 4; ++q)
          store(partial + (item * 4 + q) * p.c + c + g * kLanes<T>, sums[g][q], some);
    });
    if (!b.dmask) return;
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i)
      pixels.for_copies(first + i, [&](int64_t copy) {
        static_cast<T*>(b.dmask)[n * p.out_pixels() + copy] = sum<T>(dmasks.data[at++]);
      });
  }

  void finish(Parallel run) const {
    const Problem& p = pixels.p;
    for_each_statistic(p, run, [&](int64_t k, int64_t n0, int64_t n1, int64_t c0, int64_t c1) {
      double s1 = 0, s2 = 0;
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = c0; c < c1; ++c) {
          double q[4] = {};
          for (int64_t item = n * pixels.runs; item < (n + 1) * pixels.runs; ++item)
            for (int j = 0; j < 4; ++j) q[j] += partial[(item * 4 + j) * p.c + c];
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

  void apply(int64_t item) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(b.x) + (n * p.pixels() + first) * p.c;
    const S* dy = static_cast<const S*>(b.dy) + n * p.out_pixels() * p.c;
    S* dx = static_cast<S*>(b.dx) + (n * p.pixels() + first) * p.c;
    const T* mask = b.mask ? static_cast<const T*>(b.mask) + n * p.out_pixels() : nullptr;
    const Vec<T> slope = splat<T>(T(p.slope)), one = splat<T>(1);
    // Sums of this call are divided by the count; those from outside were.
    const double scale = b.reduce ? 1.0 / double(p.count()) : 1;
    const bool stream = leaves_caches<S, T>(p.n * p.c * p.pixels());
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(b.gamma, b.beta, n, c);
      Vec<T> k1[G] = {}, k2[G] = {};
      if (!b.constant)
        for (int g = 0; g < G; ++g)
          for (int64_t j = 0; j < some; ++j) {
            const int64_t k = statistic(p, n, c + g * kLanes<T> + j);
            k1[g][j] = T(b.sums[k] * scale);
            k2[g][j] = T(b.sums[p.statistics() + k] * scale);
          }
      for (int64_t i = 0; i < count; ++i) {
        Vec<T> xv[G], dxhat[G] = {};
        for (int g = 0; g < G; ++g) xv[g] = load_channels<T>(x + i * p.c + c + g * kLanes<T>, some);
        pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA {
          const Vec<T> m = splat<T>(mask ? mask[copy] : T(1));
          for (int g = 0; g < G; ++g) {
            const Vec<T> z = group.affine_of(g, xv[g], m).z;
            const Vec<T> dyv = load_channels<T>(dy + copy * p.c + c + g * kLanes<T>, some);
            dxhat[g] = fma<T>(activate<T>(z, dyv, slope), fma<T>(group.gamma[g], m, one), dxhat[g]);
          }
        });
        for (int g = 0; g < G; ++g) {
          const Vec<T> xhat = group.affine_of(g, xv[g], Vec<T>{}).xhat;
          store_channels<T>(dx + i * p.c + c + g * kLanes<T>,
                            group.rstd[g] * fma<T>(-xhat, k2[g], dxhat[g] - k1[g]), some, stream);
        }
      }
    });
    fence(stream);
  }
};

template <class T>
int64_t pixels_scratch_bytes(const Problem& p) {
  return larger(PixelsForward<T, T>::scratch_bytes(p), PixelsBackward<T, T>::scratch_bytes(p));
}

template <class Body>
void for_items(Parallel run, const Pixels& pixels, const Body& body) {
  parallel(run, pixels.items(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) body(item);
  });
}

template <class S, class T>
void pixels_statistics(const PixelsForward<S, T>& pass, Parallel run) {
  for_items(run, pass.pixels, [&](int64_t item) { pass.reduce(item); });
  pass.finish(run);
}

template <class S, class T>
void pixels_statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, Parallel run) {
  Forward f{};
  f.x = x;
  f.mean = mean;
  f.var = var;
  pixels_statistics<S, T>(PixelsForward<S, T>(p, f, scratch), run);
}

template <class S, class T>
void pixels_forward(const Problem& p, const Forward& f, void* scratch, Parallel run) {
  const PixelsForward<S, T> pass(p, f, scratch);
  if (!f.given) pixels_statistics<S, T>(pass, run);
  pass.table.fill(f.mean, f.var);
  for_items(run, pass.pixels, [&](int64_t item) { pass.apply(item); });
}

template <class S, class T>
void pixels_backward(const Problem& p, const Backward& b, void* scratch, Parallel run) {
  const PixelsBackward<S, T> pass(p, b, scratch);
  pass.table.fill(b.mean, b.var);
  if (b.reduce) {
    parallel(run, pass.pixels.items(), [&](int64_t begin, int64_t end) {
      Buffer<Vec<T>> dmasks(b.dmask ? pass.pixels.run * p.up * p.up : 0);
      for (int64_t item = begin; item < end; ++item) pass.reduce(dmasks, item);
    });
    pass.finish(run);
  }
  if (b.input) for_items(run, pass.pixels, [&](int64_t item) { pass.apply(item); });
}
