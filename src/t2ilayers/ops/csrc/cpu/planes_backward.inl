// Planes: the sums of all gradients, then that of x.

// A mask's gradient, of those that `parts` blocks of channels have left: (parts, n, up h, up w).
template <class T>
void sum_partial_dmasks(const Problem& p, const T* partial, int64_t parts, void* dmask, Parallel run) {
  const int64_t all = p.n * p.out_pixels();
  const int64_t some = larger(kLanes<T>, 32768 / parts);  // pixels worth a thread's beginning
  parallel(run, ceil_div(all, some), [&](int64_t begin, int64_t end) {
    for_vectors<T>(smaller(all, end * some) - begin * some, [&](int64_t i, int64_t lanes) T2ILAYERS_LAMBDA {
      const int64_t at = begin * some + i;
      Vec<T> total{};
      for (int64_t part = 0; part < parts; ++part) total += load(partial + part * all + at, lanes);
      store_any<T>(total, dmask, p.mask_dtype, at, lanes);
    });
  });
}

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

};

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
  if (b.reduce && b.dmask && !pass.direct(p))
    sum_partial_dmasks<T>(p, pass.partial_dmask, pass.blocks.per_sample, b.dmask, run);
}
