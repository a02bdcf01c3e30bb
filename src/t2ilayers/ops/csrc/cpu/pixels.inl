// Channels last: a pixel is a vector of channels. Every pass reads whole pixels, so the mask's gradient is complete
// where it is computed, and sums over pixels go through a partial sum of each item.

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
  // Pixels of an item.
  int64_t count(int64_t item) const { return smaller(p.pixels() - first(item), run); }

  // body(copy's pixel in y) for each copy of a pixel of x.
  template <class Body>
  T2ILAYERS_INLINE void for_copies(int64_t pixel, Body body) const {
    const int64_t corner = p.up == 1 ? pixel : pixel / p.w * 4 * p.w + pixel % p.w * 2;
    for (int64_t line = 0; line < p.up; ++line)
      for (int64_t copy = corner + line * 2 * p.w; copy < corner + line * 2 * p.w + p.up; ++copy) body(copy);
  }
};

// Up to kGroup vectors of one sample's channels.
template <class T, int G>
struct Group {
  int64_t counts[G];
  Rows<T> rows[G];
};

// Statistics as the formulas take them: (high, offset, rstd; samples or 1; c).
template <class T>
struct Table {
  const Problem& p;
  T* data;

  static int64_t samples(const Problem& p) { return p.groups > 0 ? p.n : 1; }
  T* at(int64_t what, int64_t n, int64_t c) const {
    return data + (what * samples(p) + (p.groups > 0 ? n : 0)) * p.c + c;
  }
  static int64_t bytes(const Problem& p) { return ceil_div(3 * samples(p) * p.c * int64_t(sizeof(T)), 64) * 64; }

  void fill(const double* mean, const double* var) const {
    for (int64_t n = 0; n < samples(p); ++n)
      for (int64_t c = 0; c < p.c; ++c) {
        const int64_t k = statistic(p, n, c);
        const Scale<T> scale = p.normalized() ? Scale<T>::of(mean[k], var[k], p.eps) : Scale<T>::none();
        *at(0, n, c) = scale.high;
        *at(1, n, c) = scale.offset;
        *at(2, n, c) = scale.rstd;
      }
  }

  template <int G>
  T2ILAYERS_INLINE Group<T, G> group(const void* gamma, const void* beta, int64_t n, int64_t c) const {
    Group<T, G> out;
    T2ILAYERS_UNROLL
    for (int g = 0; g < G; ++g) {
      const int64_t from = c + g * kLanes<T>, count = smaller(kLanes<T>, p.c - from);
      out.counts[g] = count;
      Rows<T>& r = out.rows[g];
      r.high = load(at(0, n, from), count);
      r.offset = load(at(1, n, from), count);
      r.rstd = load(at(2, n, from), count);
      r.gamma = p.maps ? Vec<T>{} : load_any<T>(gamma, p.gamma_dtype, n * p.c + from, count);
      r.beta = p.maps ? Vec<T>{} : load_any<T>(beta, p.beta_dtype, n * p.c + from, count);
      r.tilt = r.gamma - splat<T>(T(p.absolute));
    }
    return out;
  }
};

// Pixels that are asked for in advance: the hardware does not see through the order in which copies are read.
constexpr int64_t kAhead = 8;

// A thread's memory for the pixels of y that belong to an item, in the order of for_copies.
template <class T>
struct Copies {
  const Pixels& pixels;
  const int64_t doubling;  // 1 << doubling copies of a pixel of x
  Buffer<int64_t> pixel;  // of y; past the last one, the last again
  Buffer<T> masks;
  Buffer<Vec<T>> dmasks;

  explicit Copies(const Pixels& pixels)
      : pixels(pixels), doubling(pixels.p.up == 1 ? 0 : 2), pixel((pixels.run << doubling) + kAhead), masks(pixels.run << doubling),
        dmasks(pixels.run << doubling) {}

  void fill(int64_t item, const void* mask) {
    const Problem& p = pixels.p;
    const int64_t first = pixels.first(item), count = pixels.count(item), sample = pixels.sample(item) * p.out_pixels();
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i)
      pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA {
        pixel.data[at] = sample + copy;
        masks.data[at++] = mask ? value<T>(mask, p.mask_dtype, sample + copy) : T(1);
      });
    for (int64_t i = 0; i < kAhead; ++i) pixel.data[at + i] = pixel.data[at - 1];
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

// body(statistic, first sample, last sample, first channel, last channel), in parallel. Without statistics, a channel
// stands for one.
template <class Body>
void for_each_statistic(const Problem& p, Parallel run, const Body& body) {
  constexpr int64_t some = 16;
  const int64_t all = p.groups > 0 ? p.statistics() : p.c;
  parallel(run, ceil_div(all, some), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * some; k < smaller(all, end * some); ++k) {
      const int64_t width = p.groups > 0 ? p.c / p.groups : 1, n = p.groups > 0 ? k / p.groups : 0;
      const int64_t c = p.groups > 0 ? k % p.groups * width : k;
      body(k, n, p.groups > 0 ? n + 1 : p.n, c, c + width);
    }
  });
}

template <class S, class T>
struct PixelsForward {
  const Pixels pixels;
  const Forward& f;
  Table<T> table;
  double* partial;  // (items, 2, c): means and squared deviations
  const Activated<T> activated;

  PixelsForward(const Problem& p, const Forward& f, void* scratch)
      : pixels(p), f(f), table{p, static_cast<T*>(scratch)},
        partial(reinterpret_cast<double*>(static_cast<char*>(scratch) + Table<T>::bytes(p))), activated(p) {}

  static int64_t scratch_bytes(const Problem& p) {
    return Table<T>::bytes(p) + Pixels(p).items() * 2 * p.c * sizeof(double);
  }

  __attribute__((noinline)) void reduce(int64_t item) const {
    const Problem& p = pixels.p;
    const int64_t count = pixels.count(item);
    const S* x = static_cast<const S*>(f.x) + (pixels.sample(item) * p.pixels() + pixels.first(item)) * p.c;
    double* means = partial + item * 2 * p.c;
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      auto value = [&](int64_t i, int g) T2ILAYERS_LAMBDA {
        return load_as<T>(x + i * p.c + c + g * kLanes<T>, some);
      };
      Vec<T> start[G] = {}, delta[G] = {}, total[G] = {}, squares[G] = {};
      T2ILAYERS_UNROLL
      for (int g = 0; g < G; ++g) start[g] = value(0, g);
      for (int64_t i = 0; i < count; ++i)
        T2ILAYERS_UNROLL
        for (int g = 0; g < G; ++g) total[g] += value(i, g) - start[g];
      T2ILAYERS_UNROLL
      for (int g = 0; g < G; ++g) delta[g] = total[g] / splat<T>(T(count));
      for (int64_t i = 0; i < count; ++i)
        T2ILAYERS_UNROLL
        for (int g = 0; g < G; ++g) {
          const Vec<T> d = (value(i, g) - start[g]) - delta[g];
          squares[g] = fma<T>(d, d, squares[g]);
        }
      T2ILAYERS_UNROLL
      for (int g = 0; g < G; ++g)
        for (int64_t j = 0; j < some; ++j) {
          const int64_t at = c + g * kLanes<T> + j;
          means[at] = double(start[g][j]) + double(delta[g][j]);
          means[p.c + at] = squares[g][j];
        }
    });
    for (int64_t c = 0; c < p.c; ++c)
      if (!(means[p.c + c] - means[p.c + c] == 0)) reduce_wide(x + c, count, means + c);
  }

  // A channel that is not finite, or whose arithmetic has overflown.
  __attribute__((noinline)) void reduce_wide(const S* x, int64_t count, double* mean) const {
    const int64_t c = pixels.p.c;
    double total = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) total += double(load_as<T>(x + i * c, 1)[0]);
    *mean = total / double(count);
    for (int64_t i = 0; i < count; ++i) {
      const double d = double(load_as<T>(x + i * c, 1)[0]) - *mean;
      squares += d * d;
    }
    mean[c] = squares;
  }

  void finish(Parallel run) const {
    const Problem& p = pixels.p;
    for_each_statistic(p, run, [&](int64_t k, int64_t n0, int64_t n1, int64_t c0, int64_t c1) {
      auto each = [&](auto body) T2ILAYERS_LAMBDA {
        for (int64_t item = n0 * pixels.runs; item < n1 * pixels.runs; ++item)
          for (int64_t c = c0; c < c1; ++c) {
            const double* means = partial + item * 2 * p.c + c;
            body(double(pixels.count(item)), means[0], means[p.c]);
          }
      };
      merge(each, f.mean + k, f.var + k);
      update_running(p, f.running, k, f.mean[k], f.var[k]);
    });
  }

  void apply(int64_t item, Copies<T>& copies) const {
    pixels.p.maps ? apply_as<true>(item, copies) : apply_as<false>(item, copies);
  }

  template <bool kMaps>
  __attribute__((noinline)) void apply_as(int64_t item, Copies<T>& copies) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(f.x) + (n * p.pixels() + first) * p.c;
    S* y = static_cast<S*>(f.y);
    copies.fill(item, f.mask);
    const int64_t doubling = copies.doubling, channels = p.c;
    const T absolute = T(p.absolute);
    const int64_t* pixel = copies.pixel.data;
    const T* masks = copies.masks.data;
    const bool stream = leaves_caches<S>(p.n * p.c * p.out_pixels());
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(f.gamma, f.beta, n, c);
      for (int64_t at = 0; at < count << doubling; ++at) {
        const Vec<T> m = splat<T>(masks[at]), without = base<T>(m, absolute);
        T2ILAYERS_UNROLL
        for (int g = 0; g < G; ++g) {
          const int64_t to = pixel[at] * channels + c + g * kLanes<T>;
          __builtin_prefetch(x + ((at + kAhead) >> doubling) * channels + c + g * kLanes<T>);
          const Vec<T> xv = load_as<T>(x + (at >> doubling) * channels + c + g * kLanes<T>, some);
          const Vec<T> xhat = normalized<T>(xv, group.rows[g]);
          Point<T> v;
          if constexpr (kMaps)
            v = point<T>(xhat, load_any<T>(f.gamma, p.gamma_dtype, to, some),
                         load_any<T>(f.beta, p.beta_dtype, to, some), absolute);
          else
            v = point<T>(xhat, m, without, group.rows[g]);
          put_as<T>(y + to, activated(v.z), some, stream);
        }
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
  T* partial;  // (items, 4, c): sums of dz, dz xhat, dz m, dz m xhat; of maps, of dz a, dz a xhat
  const Activated<T> activated;
  const double share;

  PixelsBackward(const Problem& p, const Backward& b, void* scratch)
      : pixels(p), b(b), table{p, static_cast<T*>(scratch)},
        partial(reinterpret_cast<T*>(static_cast<char*>(scratch) + Table<T>::bytes(p))), activated(p),
        share(share_of(p, b)) {}

  static int64_t scratch_bytes(const Problem& p) {
    return Table<T>::bytes(p) + Pixels(p).items() * 4 * p.c * sizeof(T);
  }

  void reduce(int64_t item, Copies<T>& copies) const {
    pixels.p.maps ? reduce_as<true>(item, copies) : reduce_as<false>(item, copies);
  }

  template <bool kMaps>
  __attribute__((noinline)) void reduce_as(int64_t item, Copies<T>& copies) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(b.x) + (n * p.pixels() + first) * p.c;
    const S* dy = static_cast<const S*>(b.dy);
    copies.fill(item, b.mask);
    const int64_t doubling = copies.doubling, channels = p.c;
    const T absolute = T(p.absolute);
    const int64_t* pixel = copies.pixel.data;
    const T* masks = copies.masks.data;
    Vec<T>* dmasks = b.dmask ? copies.dmasks.data : nullptr;
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(b.gamma, b.beta, n, c);
      Vec<T> sums[G][4] = {};
      for (int64_t at = 0; at < count << doubling; ++at) {
        const Vec<T> m = splat<T>(masks[at]), without = base<T>(m, absolute);
        Vec<T> dm{};
        T2ILAYERS_UNROLL
        for (int g = 0; g < G; ++g) {
          const int64_t from = pixel[at] * channels + c + g * kLanes<T>;
          __builtin_prefetch(dy + pixel[at + kAhead] * channels + c + g * kLanes<T>);
          __builtin_prefetch(x + ((at + kAhead) >> doubling) * channels + c + g * kLanes<T>);
          const Vec<T> xv = load_as<T>(x + (at >> doubling) * channels + c + g * kLanes<T>, some);
          const Vec<T> xhat = normalized<T>(xv, group.rows[g]), dyv = load_as<T>(dy + from, some);
          if constexpr (kMaps) {
            const Point<T> v = point<T>(xhat, load_any<T>(b.gamma, p.gamma_dtype, from, some),
                                        load_any<T>(b.beta, p.beta_dtype, from, some), absolute);
            const Vec<T> dz = activated.through(v.z, dyv), dza = dz * v.a;
            store_any<T>(dz, b.dbeta, p.beta_dtype, from, some);
            store_any<T>(dz * v.xhat, b.dgamma, p.gamma_dtype, from, some);
            sums[g][0] += dza;
            sums[g][1] = fma<T>(dza, v.xhat, sums[g][1]);
          } else {
            const Point<T> v = point<T>(xhat, m, without, group.rows[g]);
            const Vec<T> dz = activated.through(v.z, dyv), dzm = dz * m;
            sums[g][0] += dz;
            sums[g][1] = fma<T>(dz, v.xhat, sums[g][1]);
            sums[g][2] += dzm;
            sums[g][3] = fma<T>(dzm, v.xhat, sums[g][3]);
            dm = fma<T>(dz, shift<T>(v.xhat, group.rows[g]), dm);
          }
        }
        if (!kMaps && dmasks) dmasks[at] = c ? dmasks[at] + dm : dm;
      }
      T2ILAYERS_UNROLL
      for (int g = 0; g < G; ++g)
        T2ILAYERS_UNROLL
        for (int q = 0; q < 4; ++q)
          store(partial + (item * 4 + q) * p.c + c + g * kLanes<T>, sums[g][q], some);
    });
    if (kMaps || !b.dmask) return;
    for (int64_t at = 0; at < count << doubling; ++at) {
      const T total = sum<T>(copies.dmasks.data[at]);
      if (p.mask_dtype == kType<T>)
        static_cast<T*>(b.dmask)[copies.pixel.data[at]] = total;
      else
        write(total, b.dmask, p.mask_dtype, copies.pixel.data[at]);
    }
  }

  void finish(Parallel run) const {
    const Problem& p = pixels.p;
    for_each_statistic(p, run, [&](int64_t k, int64_t n0, int64_t n1, int64_t c0, int64_t c1) {
      double s1 = 0, s2 = 0;
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = c0; c < c1; ++c) {
          double q[4] = {};
          for (int64_t item = n * pixels.runs; item < (n + 1) * pixels.runs; ++item)
            T2ILAYERS_UNROLL
            for (int j = 0; j < 4; ++j) q[j] += partial[(item * 4 + j) * p.c + c];
          finish_row(p, b, n * p.c + c, q, &s1, &s2);
        }
      if (!p.normalized()) return;
      b.sums[k] = s1;
      b.sums[p.statistics() + k] = s2;
    });
  }

  void apply(int64_t item, Copies<T>& copies) const {
    pixels.p.maps ? apply_as<true>(item, copies) : apply_as<false>(item, copies);
  }

  template <bool kMaps>
  __attribute__((noinline)) void apply_as(int64_t item, Copies<T>& copies) const {
    const Problem& p = pixels.p;
    const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
    const S* x = static_cast<const S*>(b.x) + (n * p.pixels() + first) * p.c;
    const S* dy = static_cast<const S*>(b.dy);
    S* dx = static_cast<S*>(b.dx) + (n * p.pixels() + first) * p.c;
    copies.fill(item, b.mask);
    const int64_t doubling = copies.doubling, channels = p.c;
    const T absolute = T(p.absolute);
    const int64_t* pixel = copies.pixel.data;
    const T* masks = copies.masks.data;
    const bool stream = leaves_caches<S>(p.n * p.c * p.pixels());
    for_groups<T>(p.c, [&](auto vectors, int64_t c, auto whole) T2ILAYERS_LAMBDA {
      constexpr int G = decltype(vectors)::value;
      const int64_t some = whole.value ? kLanes<T> : p.c - c;
      const auto group = table.template group<G>(b.gamma, b.beta, n, c);
      Vec<T> k1[G] = {}, k2[G] = {};
      T2ILAYERS_UNROLL
      for (int g = 0; g < G; ++g)
        for (int64_t j = 0; j < some; ++j) {
          const Correction<T> k(p, b, share, n, c + g * kLanes<T> + j, group.rows[g].rstd[j]);
          k1[g][j] = -k.k1, k2[g][j] = -k.k2;
        }
      Vec<T> dxhat[G] = {};  // of the copies of a pixel so far
      for (int64_t at = 0; at < count << doubling; ++at) {
        const Vec<T> m = splat<T>(masks[at]), without = base<T>(m, absolute);
        const bool last = (at + 1) >> doubling << doubling == at + 1;
        T2ILAYERS_UNROLL
        for (int g = 0; g < G; ++g) {
          const int64_t from = pixel[at] * channels + c + g * kLanes<T>;
          __builtin_prefetch(dy + pixel[at + kAhead] * channels + c + g * kLanes<T>);
          __builtin_prefetch(x + ((at + kAhead) >> doubling) * channels + c + g * kLanes<T>);
          const int64_t in = (at >> doubling) * channels + c + g * kLanes<T>;
          const Vec<T> xhat = normalized<T>(load_as<T>(x + in, some), group.rows[g]);
          Point<T> v;
          if constexpr (kMaps)
            v = point<T>(xhat, load_any<T>(b.gamma, p.gamma_dtype, from, some),
                         load_any<T>(b.beta, p.beta_dtype, from, some), absolute);
          else
            v = point<T>(xhat, m, without, group.rows[g]);
          dxhat[g] = fma<T>(activated.through(v.z, load_as<T>(dy + from, some)), v.a, dxhat[g]);
          if (!last) continue;
          // Where statistics are constant, xhat has no part in it: it may be inf.
          const Vec<T> off = b.constant ? Vec<T>{} : fma<T>(xhat, k2[g], k1[g]);
          put_as<T>(dx + in, fma<T>(dxhat[g], group.rows[g].rstd, off), some, stream);
          dxhat[g] = Vec<T>{};
        }
      }
    });
    fence(stream);
  }
};

// body(item, copies), with a thread's memory.
template <class T, class Body>
void for_items(Parallel run, const Pixels& pixels, const Body& body) {
  parallel(run, pixels.items(), [&](int64_t begin, int64_t end) {
    Copies<T> copies(pixels);
    for (int64_t item = begin; item < end; ++item) body(item, copies);
  });
}

template <class S, class T>
void pixels_statistics(const PixelsForward<S, T>& pass, Parallel run) {
  parallel(run, pass.pixels.items(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) pass.reduce(item);
  });
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
  for_items<T>(run, pass.pixels, [&](int64_t item, Copies<T>& copies) { pass.apply(item, copies); });
}

template <class S, class T>
void pixels_backward(const Problem& p, const Backward& b, void* scratch, Parallel run) {
  const PixelsBackward<S, T> pass(p, b, scratch);
  const bool at_once = b.constant && b.input;  // no sum stands between the passes: one after the other, while in cache
  pass.table.fill(b.mean, b.var);
  if (b.reduce) {
    for_items<T>(run, pass.pixels, [&](int64_t item, Copies<T>& copies) {
      pass.reduce(item, copies);
      if (at_once) pass.apply(item, copies);
    });
    pass.finish(run);
  }
  if (!b.input || (b.reduce && at_once)) return;
  for_items<T>(run, pass.pixels, [&](int64_t item, Copies<T>& copies) { pass.apply(item, copies); });
}
