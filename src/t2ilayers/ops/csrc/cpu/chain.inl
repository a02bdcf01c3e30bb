// Affines in a row, x <- act(gamma x + beta), without statistics: each map is read or written once. Everything
// between is computed again in backward. Nearest upsampling changes no value, so it comes last.

template <class T, int P>
struct Links {
  Vec<T> gamma[P], beta[P];

  T2ILAYERS_INLINE Vec<T> forward(Vec<T> x, const Activated<T>& activated) const {
    T2ILAYERS_UNROLL
    for (int i = 0; i < P; ++i) x = activated(fma<T>(gamma[i], x, beta[i]));
    return x;
  }

  // dx. Adds to the sums of each pair's dgamma and dbeta.
  T2ILAYERS_INLINE Vec<T> backward(Vec<T> x, Vec<T> dy, Vec<T> (&sums)[P][2], const Activated<T>& activated) const {
    Vec<T> in[P], z[P];
    T2ILAYERS_UNROLL
    for (int i = 0; i < P; ++i) {
      in[i] = i ? activated(z[i - 1]) : x;
      z[i] = fma<T>(gamma[i], in[i], beta[i]);
    }
    T2ILAYERS_UNROLL
    for (int i = P - 1; i >= 0; --i) {
      const Vec<T> dz = activated.through(z[i], dy);
      sums[i][0] = fma<T>(dz, in[i], sums[i][0]);
      sums[i][1] += dz;
      dy = dz * gamma[i];
    }
    return dy;
  }
};

// visit(constant) of the number of pairs
template <class Visit>
void with_pairs(int64_t pairs, const Visit& visit) {
  if (pairs == 1) return visit(Constant<1>{});
  if (pairs == 2) return visit(Constant<2>{});
  visit(Constant<3>{});
}

// --- Planes: a row is one sample's channel.

template <class T, int P, class Call>
T2ILAYERS_INLINE Links<T, P> row_links(const Problem& p, const Call& a, int64_t row) {
  Links<T, P> out;
  T2ILAYERS_UNROLL
  for (int i = 0; i < P; ++i) {
    out.gamma[i] = splat<T>(T(read(a.gamma, p.gamma_dtype, i * p.n * p.c + row)));
    out.beta[i] = splat<T>(T(read(a.beta, p.beta_dtype, i * p.n * p.c + row)));
  }
  return out;
}

template <class S, class T, int P>
__attribute__((noinline)) void chain_row(const Problem& p, const Chain& a, int64_t row) {
  const Activated<T> activated(p);
  const Links<T, P> links = row_links<T, P>(p, a, row);
  const S* x = static_cast<const S*>(a.x) + row * p.pixels();
  S* y = static_cast<S*>(a.y) + row * p.out_pixels();
  const bool stream = leaves_caches<S>(p.n * p.c * p.out_pixels());
  if (p.up == 1) {
    for_vectors<T>(p.pixels(), [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
      put_as<T>(y + i, links.forward(load_as<T>(x + i, some), activated), some, stream);
    });
  } else {
    for (int64_t line = 0; line < p.h; ++line)
      for_vectors<T>(p.w, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
        const Vec<T> v = links.forward(load_as<T>(x + line * p.w + i, some), activated);
        const int64_t first = smaller(2 * some, kLanes<T>), second = 2 * some - first;
        for (int64_t below = 0; below < 2; ++below) {
          S* to = y + (2 * line + below) * 2 * p.w + 2 * i;
          put_as<T>(to, twice<T, 0>(v, AllLanes<T>{}), first, stream);
          if (second) put_as<T>(to + kLanes<T>, twice<T, kLanes<T> / 2>(v, AllLanes<T>{}), second, stream);
        }
      });
  }
  fence(stream);
}

template <class S, class T, int P>
__attribute__((noinline)) void chain_backward_row(const Problem& p, const ChainBackward& a, int64_t row) {
  const Activated<T> activated(p);
  const Links<T, P> links = row_links<T, P>(p, a, row);
  const S* x = static_cast<const S*>(a.x) + row * p.pixels();
  const S* dy = static_cast<const S*>(a.dy) + row * p.out_pixels();
  S* dx = a.dx ? static_cast<S*>(a.dx) + row * p.pixels() : nullptr;
  const bool stream = leaves_caches<S>(p.n * p.c * p.pixels());
  double totals[P][2] = {};
  // Lines of x, or of one line all pixels, some thousands at a time: their sums are added up in double.
  const int64_t width = p.up == 1 ? p.pixels() : p.w, lines = p.up == 1 ? 1 : p.h;
  for (int64_t line = 0; line < lines; ++line)
    for (int64_t begin = 0; begin < width; begin += kChunk) {
      Vec<T> sums[P][2];
      T2ILAYERS_UNROLL
      for (auto& pair : sums) pair[0] = pair[1] = Vec<T>{};
      for_vectors<T>(smaller(kChunk, width - begin), [&](int64_t j, int64_t some) T2ILAYERS_LAMBDA {
        const int64_t i = begin + j, at = line * width + i;
        Vec<T> gradient;
        if (p.up == 1) {
          gradient = load_as<T>(dy + at, some);
        } else {
          const S *above = dy + 4 * line * width + 2 * i, *below = above + 2 * width;
          const int64_t first = smaller(2 * some, kLanes<T>), second = 2 * some - first;
          const Vec<T> left = load_as<T>(above, first) + load_as<T>(below, first);
          const Vec<T> right = second ? load_as<T>(above + kLanes<T>, second) + load_as<T>(below + kLanes<T>, second)
                                      : Vec<T>{};
          gradient = sum_pairs<T>(left, right, AllLanes<T>{});
        }
        // Past the end the gradient is 0, and so is every term.
        const Vec<T> result = links.backward(load_as<T>(x + at, some), gradient, sums, activated);
        if (dx) put_as<T>(dx + at, result, some, stream);
      });
      T2ILAYERS_UNROLL
      for (int i = 0; i < P; ++i)
        T2ILAYERS_UNROLL
        for (int q = 0; q < 2; ++q) totals[i][q] += sum<T>(sums[i][q]);
    }
  fence(stream);
  if (!a.dgamma) return;
  T2ILAYERS_UNROLL
  for (int i = 0; i < P; ++i) {
    write(totals[i][0], a.dgamma, p.gamma_dtype, i * p.n * p.c + row);
    write(totals[i][1], a.dbeta, p.beta_dtype, i * p.n * p.c + row);
  }
}

template <class S, class T>
void planes_chain(const Problem& p, const Chain& a, Parallel run) {
  with_pairs(a.pairs, [&](auto pairs) {
    parallel(run, p.n * p.c, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) chain_row<S, T, decltype(pairs)::value>(p, a, row);
    });
  });
}

template <class S, class T>
void planes_chain_backward(const Problem& p, const ChainBackward& a, Parallel run) {
  with_pairs(a.pairs, [&](auto pairs) {
    parallel(run, p.n * p.c, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) chain_backward_row<S, T, decltype(pairs)::value>(p, a, row);
    });
  });
}

// --- Pixels

template <class T, int P, class Call>
T2ILAYERS_INLINE Links<T, P> channel_links(const Problem& p, const Call& a, int64_t n, int64_t c, int64_t some) {
  Links<T, P> out;
  T2ILAYERS_UNROLL
  for (int i = 0; i < P; ++i) {
    out.gamma[i] = load_any<T>(a.gamma, p.gamma_dtype, (i * p.n + n) * p.c + c, some);
    out.beta[i] = load_any<T>(a.beta, p.beta_dtype, (i * p.n + n) * p.c + c, some);
  }
  return out;
}

template <class S, class T, int P>
__attribute__((noinline)) void chain_item(const Pixels& pixels, const Chain& a, int64_t item) {
  const Problem& p = pixels.p;
  const Activated<T> activated(p);
  const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
  const S* x = static_cast<const S*>(a.x) + (n * p.pixels() + first) * p.c;
  S* y = static_cast<S*>(a.y) + n * p.out_pixels() * p.c;
  const bool stream = leaves_caches<S>(p.n * p.c * p.out_pixels());
  for_vectors<T>(p.c, [&](int64_t c, int64_t some) T2ILAYERS_LAMBDA {
    const Links<T, P> links = channel_links<T, P>(p, a, n, c, some);
    for (int64_t i = 0; i < count; ++i) {
      const Vec<T> v = links.forward(load_as<T>(x + i * p.c + c, some), activated);
      pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA { put_as<T>(y + copy * p.c + c, v, some, stream); });
    }
  });
  fence(stream);
}

// partial: (items, 2 P, c)
template <class S, class T, int P>
__attribute__((noinline)) void chain_backward_item(const Pixels& pixels, const ChainBackward& a, T* partial, int64_t item) {
  const Problem& p = pixels.p;
  const Activated<T> activated(p);
  const int64_t n = pixels.sample(item), first = pixels.first(item), count = pixels.count(item);
  const S* x = static_cast<const S*>(a.x) + (n * p.pixels() + first) * p.c;
  const S* dy = static_cast<const S*>(a.dy) + n * p.out_pixels() * p.c;
  S* dx = a.dx ? static_cast<S*>(a.dx) + (n * p.pixels() + first) * p.c : nullptr;
  const bool stream = leaves_caches<S>(p.n * p.c * p.pixels());
  for_vectors<T>(p.c, [&](int64_t c, int64_t some) T2ILAYERS_LAMBDA {
    const Links<T, P> links = channel_links<T, P>(p, a, n, c, some);
    Vec<T> sums[P][2];
    T2ILAYERS_UNROLL
    for (auto& pair : sums) pair[0] = pair[1] = Vec<T>{};
    for (int64_t i = 0; i < count; ++i) {
      Vec<T> gradient{};
      pixels.for_copies(first + i, [&](int64_t copy) T2ILAYERS_LAMBDA {
        gradient += load_as<T>(dy + copy * p.c + c, some);
      });
      const Vec<T> result = links.backward(load_as<T>(x + i * p.c + c, some), gradient, sums, activated);
      if (dx) put_as<T>(dx + i * p.c + c, result, some, stream);
    }
    T2ILAYERS_UNROLL
    for (int i = 0; i < P; ++i)
      T2ILAYERS_UNROLL
      for (int q = 0; q < 2; ++q) store(partial + ((item * P + i) * 2 + q) * p.c + c, sums[i][q], some);
  });
  fence(stream);
}

template <class S, class T>
void pixels_chain(const Problem& p, const Chain& a, Parallel run) {
  const Pixels pixels(p);
  with_pairs(a.pairs, [&](auto pairs) {
    parallel(run, pixels.items(), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) chain_item<S, T, decltype(pairs)::value>(pixels, a, item);
    });
  });
}

template <class T>
int64_t chain_scratch_bytes(const Problem& p) {
  return p.channels_last ? Pixels(p).items() * 2 * kMostPairs * p.c * sizeof(T) : 0;
}

template <class S, class T>
void pixels_chain_backward(const Problem& p, const ChainBackward& a, void* scratch, Parallel run) {
  const Pixels pixels(p);
  T* partial = static_cast<T*>(scratch);
  with_pairs(a.pairs, [&](auto pairs) {
    constexpr int P = decltype(pairs)::value;
    parallel(run, pixels.items(), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) chain_backward_item<S, T, P>(pixels, a, partial, item);
    });
    if (!a.dgamma) return;
    parallel(run, p.n * P, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task)
        for (int64_t c = 0; c < p.c; ++c) {
          const int64_t n = task / P, i = task % P;
          double totals[2] = {};
          for (int64_t item = n * pixels.runs; item < (n + 1) * pixels.runs; ++item)
            T2ILAYERS_UNROLL
            for (int q = 0; q < 2; ++q) totals[q] += partial[((item * P + i) * 2 + q) * p.c + c];
          write(totals[0], a.dgamma, p.gamma_dtype, (i * p.n + n) * p.c + c);
          write(totals[1], a.dbeta, p.beta_dtype, (i * p.n + n) * p.c + c);
        }
    });
  });
}
