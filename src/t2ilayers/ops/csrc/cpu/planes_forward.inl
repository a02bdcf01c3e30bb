// Planes: statistics, then the result.

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
