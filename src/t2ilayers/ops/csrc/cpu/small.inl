// Planes of few pixels. A row so short is not worth parameters, sums and ends of its own, so as many channels as a
// vector has lanes go together, as columns: parameters and statistics are vectors, and sums over pixels plain additions.

constexpr int64_t kBlockBytes = 256 << 10;  // of a block's part of y

// A block is kLanes channels, or what is left, of the samples behind their statistics.
struct SmallBlock {
  int64_t n0, n1, c, channels;
};

template <class S, class T>
struct Small {
  const Problem& p;
  const int64_t pixels, out_pixels;
  const int64_t samples, per_sample;  // samples behind a statistic; blocks of a sample

  explicit Small(const Problem& p)
      : p(p), pixels(p.pixels()), out_pixels(p.out_pixels()), samples(p.groups > 0 ? 1 : p.n),
        per_sample(ceil_div(p.c, kLanes<T>)) {}

  // Where each statistic is of one channel, and blocks stay in cache.
  static bool takes(const Problem& p) {
    return !p.channels_last && !p.maps && (p.groups <= 0 || p.groups == p.c) && p.c >= kLanes<T> && p.n > 0 &&
           0 < p.pixels() && p.pixels() <= smaller(64, 8 * kLanes<T>) &&
           p.n * p.out_pixels() * T2ILAYERS_VECTOR_BYTES <= kBlockBytes;
  }

  int64_t blocks() const { return per_sample * (p.n / samples); }
  SmallBlock operator[](int64_t i) const {
    const int64_t n = i / per_sample * samples, c = i % per_sample * kLanes<T>;
    return {n, n + samples, c, smaller(kLanes<T>, p.c - c)};
  }

  // From the rows of sample n to those that are read next.
  int64_t ahead(const SmallBlock& at, int64_t n, int64_t pixels) const {
    return (n + 1 < at.n1 ? p.c : kLanes<T> - (samples - 1) * p.c) * pixels;
  }

  // A pixel of x, and the first of its Up * Up copies in y: body(pixel, copy).
  template <int Up, class Body>
  T2ILAYERS_INLINE void for_pixels(Body body) const {
    for (int64_t line = 0, i = 0; line < p.h; ++line)
      for (int64_t column = 0; column < p.w; ++column, ++i) body(i, (line * Up * p.w + column) * Up);
  }
  template <int Up, class Body>
  T2ILAYERS_INLINE void for_copies(int64_t first, Body body) const {
    T2ILAYERS_UNROLL
    for (int below = 0; below < Up; ++below)
      T2ILAYERS_UNROLL
      for (int right = 0; right < Up; ++right) body(first + below * Up * p.w + right);
  }

  // What all rows of a block have.
  Rows<T> rows(const SmallBlock& at, const double* mean, const double* var) const {
    Rows<T> r{{}, {}, splat<T>(1), {}, {}, {}};
    for (int64_t j = 0; p.normalized() && j < at.channels; ++j) {
      const int64_t k = statistic(p, at.n0, at.c + j);
      const Scale<T> s = Scale<T>::of(mean[k], var[k], p.eps);
      r.high[j] = s.high, r.offset[j] = s.offset, r.rstd[j] = s.rstd;
    }
    return r;
  }
  // What those of a sample have besides.
  void add_sample(Rows<T>& r, const SmallBlock& at, int64_t n, const void* gamma, const void* beta) const {
    r.gamma = load_any<T>(gamma, p.gamma_dtype, n * p.c + at.c, at.channels);
    r.beta = load_any<T>(beta, p.beta_dtype, n * p.c + at.c, at.channels);
    r.tilt = r.gamma - splat<T>(T(p.absolute));
  }
};

// A thread's columns.
template <class T>
struct SmallWorkspace {
  const int64_t out_pixels;
  Buffer<Vec<T>> x, dy;  // of a block, a pixel of x each
  Buffer<Vec<T>> y, dm;  // of a sample
  Buffer<T> masks;

  template <class S>
  explicit SmallWorkspace(const Small<S, T>& small)
      : out_pixels(small.out_pixels), x(small.samples * small.pixels), dy(small.samples * small.pixels),
        y(out_pixels), dm(out_pixels), masks(2 * out_pixels) {
    for (int64_t i = 0; i < out_pixels; ++i) masks.data[i] = 1;
  }

  const T* mask(const Problem& p, const void* mask, int64_t n) {
    return mask ? fetch(mask, p.mask_dtype, n * out_pixels, out_pixels, masks.data + out_pixels) : masks.data;
  }
};

template <class S, class T>
struct SmallForward {
  const Small<S, T> small;
  const Forward& f;
  const Activated<T> activated;

  SmallForward(const Problem& p, const Forward& f) : small(p), f(f), activated(p) {}

  void block(SmallWorkspace<T>& work, const SmallBlock& at) const {
    const Problem& p = small.p;
    ColumnMoments<T> moments;
    for (int64_t n = at.n0; n < at.n1; ++n) {
      Vec<T>* x = work.x.data + (n - at.n0) * small.pixels;
      read_columns<T>(static_cast<const S*>(f.x) + (n * p.c + at.c) * small.pixels, small.pixels, at.channels,
                      small.ahead(at, n, small.pixels), x);
      if (!f.given) moments.add(x, small.pixels);
    }
    if (!f.given) finish(moments, at);
    Rows<T> r = small.rows(at, f.mean, f.var);
    for (int64_t n = at.n0; n < at.n1; ++n) {
      small.add_sample(r, at, n, f.gamma, f.beta);
      const Vec<T>* x = work.x.data + (n - at.n0) * small.pixels;
      const T* mask = work.mask(p, f.mask, n);
      p.up == 1 ? apply<1>(r, x, mask, work.y.data) : apply<2>(r, x, mask, work.y.data);
      write_columns<T>(work.y.data, small.out_pixels, at.channels, small.ahead(at, n, small.out_pixels),
                       static_cast<S*>(f.y) + (n * p.c + at.c) * small.out_pixels);
    }
  }

  void finish(const ColumnMoments<T>& moments, const SmallBlock& at) const {
    const Problem& p = small.p;
    Doubles<T> mean, var;
    moments.finish(&mean, &var);
    for (int64_t j = 0; j < at.channels; ++j) {
      const int64_t k = statistic(p, at.n0, at.c + j);
      f.mean[k] = mean[j], f.var[k] = var[j];
      update_running(p, f.running, k, mean[j], var[j]);
    }
  }

  template <int Up>
  __attribute__((noinline)) void apply(const Rows<T>& rows, const Vec<T>* x, const T* mask, Vec<T>* y) const {
    const Rows<T> r = rows;
    const Activated<T> act = activated;
    const T absolute = T(small.p.absolute);
    small.template for_pixels<Up>([&](int64_t i, int64_t first) T2ILAYERS_LAMBDA {
      const Vec<T> xhat = normalized<T>(x[i], r);
      small.template for_copies<Up>(first, [&](int64_t copy) T2ILAYERS_LAMBDA {
        const Vec<T> m = splat<T>(mask[copy]);
        y[copy] = act(point<T>(xhat, m, base<T>(m, absolute), r).z);
      });
    });
  }
};

template <class S, class T>
struct SmallBackward {
  const Small<S, T> small;
  const Backward& b;
  T* partial_dmask;  // (blocks of a sample, n, up h, up w)
  const Activated<T> activated;
  const double share;

  SmallBackward(const Problem& p, const Backward& b, void* scratch)
      : small(p), b(b), partial_dmask(static_cast<T*>(scratch)), activated(p), share(share_of(p, b)) {}

  static int64_t scratch_bytes(const Problem& p) { return Small<S, T>(p).per_sample * p.n * p.out_pixels() * sizeof(T); }

  void block(SmallWorkspace<T>& work, const SmallBlock& at) const {
    const Problem& p = small.p;
    Rows<T> r = small.rows(at, b.mean, b.var);
    Doubles<T> s1{}, s2{};
    for (int64_t n = at.n0; n < at.n1; ++n) {
      const int64_t row = n * p.c + at.c, column = (n - at.n0) * small.pixels;
      small.add_sample(r, at, n, b.gamma, b.beta);
      read_columns<T>(static_cast<const S*>(b.x) + row * small.pixels, small.pixels, at.channels,
                      small.ahead(at, n, small.pixels), work.x.data + column);
      read_columns<T>(static_cast<const S*>(b.dy) + row * small.out_pixels, small.out_pixels, at.channels,
                      small.ahead(at, n, small.out_pixels), work.y.data);
      const T* mask = work.mask(p, b.mask, n);
      const Sums sums = p.up == 1 ? reduce<1>(r, mask, work, column) : reduce<2>(r, mask, work, column);
      if (!b.reduce) continue;
      s1 += sums.dza, s2 += sums.dza_xhat;
      store_any<T>(sums.dbeta, b.dbeta, p.beta_dtype, row, at.channels);
      store_any<T>(sums.dgamma, b.dgamma, p.gamma_dtype, row, at.channels);
      if (b.dmask)
        sum_columns<T>(work.dm.data, small.out_pixels, at.channels,
                       partial_dmask + (at.c / kLanes<T> * p.n + n) * small.out_pixels);
    }
    if (b.reduce && p.normalized())
      for (int64_t j = 0; j < at.channels; ++j) {
        const int64_t k = statistic(p, at.n0, at.c + j);
        b.sums[k] = s1[j], b.sums[p.statistics() + k] = s2[j];
      }
    if (b.input) apply(work, at, r.rstd);
  }

  struct Sums {
    Vec<T> dza, dza_xhat, dbeta, dgamma;
  };

  // Leaves xhat and, as the sum over its copies, dz a in the place of x and dy.
  template <int Up>
  __attribute__((noinline)) Sums reduce(const Rows<T>& rows, const T* mask, SmallWorkspace<T>& work, int64_t at) const {
    const Rows<T> r = rows;
    const Activated<T> act = activated;
    const T absolute = T(small.p.absolute);
    Vec<T>*x = work.x.data + at, *dy = work.dy.data + at;
    const Vec<T>* from = work.y.data;
    Vec<T>* dm = b.dmask ? work.dm.data : nullptr;
    Sums sums{};
    small.template for_pixels<Up>([&](int64_t i, int64_t first) T2ILAYERS_LAMBDA {
      const Vec<T> xhat = normalized<T>(x[i], r), slope = shift<T>(xhat, r);
      Vec<T> total{}, dzm{};
      small.template for_copies<Up>(first, [&](int64_t copy) T2ILAYERS_LAMBDA {
        const Vec<T> m = splat<T>(mask[copy]);
        const Point<T> v = point<T>(xhat, m, base<T>(m, absolute), r);
        const Vec<T> dz = act.through(v.z, from[copy]);
        total = fma<T>(dz, v.a, total);
        dzm = fma<T>(dz, m, dzm);
        if (dm) dm[copy] = dz * slope;
      });
      sums.dza += total;
      sums.dza_xhat = fma<T>(total, xhat, sums.dza_xhat);
      sums.dbeta += dzm;
      sums.dgamma = fma<T>(dzm, xhat, sums.dgamma);
      x[i] = xhat, dy[i] = total;
    });
    return sums;
  }

  void apply(SmallWorkspace<T>& work, const SmallBlock& at, Vec<T> rstd) const {
    const Problem& p = small.p;
    Vec<T> k1{}, k2{};
    for (int64_t j = 0; j < at.channels; ++j) {
      const Correction<T> k(p, b, share, at.n0, at.c + j, rstd[j]);
      k1[j] = -k.k1, k2[j] = -k.k2;
    }
    for (int64_t n = at.n0; n < at.n1; ++n) {
      Vec<T>*xhat = work.x.data + (n - at.n0) * small.pixels, *dx = work.dy.data + (n - at.n0) * small.pixels;
      for (int64_t i = 0; i < small.pixels; ++i)
        // Where statistics are constant, xhat has no part in it: it may be inf.
        dx[i] = b.constant ? dx[i] * rstd : fma<T>(dx[i], rstd, fma<T>(xhat[i], k2, k1));
      write_columns<T>(dx, small.pixels, at.channels, small.ahead(at, n, small.pixels),
                       static_cast<S*>(b.dx) + (n * p.c + at.c) * small.pixels);
    }
  }
};

template <class S, class T, class Pass>
void for_small_blocks(const Small<S, T>& small, Parallel run, const Pass& pass) {
  parallel(run, small.blocks(), [&](int64_t begin, int64_t end) {
    SmallWorkspace<T> work(small);
    for (int64_t i = begin; i < end; ++i) pass.block(work, small[i]);
  });
}

template <class S, class T>
void small_forward(const Problem& p, const Forward& f, Parallel run) {
  const SmallForward<S, T> pass(p, f);
  for_small_blocks(pass.small, run, pass);
}

template <class S, class T>
void small_backward(const Problem& p, const Backward& b, void* scratch, Parallel run) {
  const SmallBackward<S, T> pass(p, b, scratch);
  for_small_blocks(pass.small, run, pass);
  if (b.reduce && b.dmask) sum_partial_dmasks<T>(p, pass.partial_dmask, pass.small.per_sample, b.dmask, run);
}
