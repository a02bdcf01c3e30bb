// Means and squared deviations of rows of pixels.

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
