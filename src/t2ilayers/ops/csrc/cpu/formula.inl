// What the op computes of a pixel: z, the activation and their derivatives. Forward and backward must agree on the
// sign of z, so both take it from here.

T2ILAYERS_INLINE int64_t statistic(const Problem& p, int64_t n, int64_t c) {
  return p.groups > 0 ? n * p.groups + c / (p.c / p.groups) : c;
}

// A statistic as the formulas take it. The mean is split in two because a float cannot hold one that is 10^4
// standard deviations from zero: xhat = ((x - high) - low) rstd, with offset = -low rstd.
template <class T>
struct Scale {
  T high, offset, rstd;
  static Scale of(double mean, double var, double eps) {
    const double r = 1 / __builtin_sqrt(var + eps);
    const T high = T(mean);
    return {high, T((double(high) - mean) * r), T(r)};
  }
  static Scale none() { return {0, 0, 1}; }
};

// What a row (one sample's channel) brings to the formulas. `tilt` is what xhat is multiplied by in dz / dm: gamma or,
// absolute, gamma - 1.
template <class T>
struct Row {
  T high, offset, rstd, gamma, beta, tilt;
};

// The same of as many channels as a vector has lanes.
template <class T>
struct Rows {
  Vec<T> high, offset, rstd, gamma, beta, tilt;
  T2ILAYERS_INLINE static Rows of(const Row<T>& r) {
    return {splat<T>(r.high), splat<T>(r.offset), splat<T>(r.rstd), splat<T>(r.gamma), splat<T>(r.beta), splat<T>(r.tilt)};
  }
};

template <class T>
T2ILAYERS_INLINE Vec<T> normalized(Vec<T> x, const Rows<T>& r) {
  return fma<T>(x - r.high, r.rstd, r.offset);
}

template <class T>
struct Point {
  Vec<T> xhat, a, z;  // z = a xhat + beta m
};

// What of a is there without gamma: 1 or, absolute (which is 0 or 1 here), 1 - m. All channels have it.
template <class T>
T2ILAYERS_INLINE Vec<T> base(Vec<T> m, T absolute) {
  return fma<T>(splat<T>(-absolute), m, splat<T>(1));
}

template <class T>
T2ILAYERS_INLINE Point<T> point(Vec<T> xhat, Vec<T> m, Vec<T> base, const Rows<T>& r) {
  const Vec<T> a = fma<T>(r.gamma, m, base);
  return {xhat, a, fma<T>(a, xhat, r.beta * m)};
}

// With parameters of the pixel's own, and no mask.
template <class T>
T2ILAYERS_INLINE Point<T> point(Vec<T> xhat, Vec<T> gamma, Vec<T> beta, T absolute) {
  const Vec<T> a = gamma + splat<T>(1 - absolute);
  return {xhat, a, fma<T>(a, xhat, beta)};
}

// dz / dm
template <class T>
T2ILAYERS_INLINE Vec<T> shift(Vec<T> xhat, const Rows<T>& r) {
  return fma<T>(r.tilt, xhat, r.beta);
}

// To a unit or two in the last place; inf where it overflows.
template <class T>
T2ILAYERS_INLINE Vec<T> exponential(Vec<T> v) {
  constexpr bool single = sizeof(T) == 4;
  typedef typename If<single, int32_t, int64_t>::type Int;
  // Beyond these it is inf or 0. A comparison with NaN is false, so NaN stays.
  const Vec<T> most = splat<T>(single ? 89 : 710), least = splat<T>(single ? -104 : -746);
  v = v > most ? most : v;
  v = v < least ? least : v;
  const Vec<T> round = splat<T>(single ? T(0x1.8p23) : T(0x1.8p52));
  const Vec<T> n = fma<T>(v, splat<T>(T(0x1.71547652b82fep0)), round) - round;
  // ln 2 in two parts, of which n times the first is exact.
  Vec<T> r = fma<T>(-n, splat<T>(single ? T(0x1.62e4p-1) : T(0x1.62e42feep-1)), v);
  r = fma<T>(-n, splat<T>(single ? T(0x1.7f7d1cp-20) : T(0x1.a39ef35793c76p-33)), r);
  constexpr double inverse[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                1.0 / 40320,      1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,
                                1.0 / 6,          0.5,             1,              1};
  constexpr int first = single ? 6 : 0;
  Vec<T> sum = splat<T>(T(inverse[first]));
  T2ILAYERS_UNROLL
  for (int i = first + 1; i < 14; ++i) sum = fma<T>(sum, r, splat<T>(T(inverse[i])));
  // Times 2^n in two steps, because 2^n itself may be too large or too small.
  constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
  const Vec<Int> whole = __builtin_convertvector(n, Vec<Int>), half = whole >> 1, other = whole - half;
  return sum * (Vec<T>)((half + bias) << mantissa) * (Vec<T>)((other + bias) << mantissa);
}

template <class T>
struct Activated {
  Activation kind;
  Vec<T> slope;

  explicit Activated(const Problem& p) : kind(p.activation), slope(splat<T>(T(p.slope))) {}

  T2ILAYERS_INLINE Vec<T> operator()(Vec<T> z) const {
    if (__builtin_expect(kind == Activation::silu, 0)) return z / (splat<T>(1) + exponential<T>(-z));
    if (kind == Activation::relu) return z <= 0 ? Vec<T>{} : z;
    return z > 0 ? z : z * slope;
  }

  // dy act'(z)
  T2ILAYERS_INLINE Vec<T> through(Vec<T> z, Vec<T> dy) const {
    if (__builtin_expect(kind == Activation::silu, 0)) {
      const Vec<T> one = splat<T>(1), s = one / (one + exponential<T>(-z));
      return dy * s * fma<T>(z, one - s, one);
    }
    if (kind == Activation::relu) return z <= 0 ? Vec<T>{} : dy;
    return z > 0 ? dy : dy * slope;
  }
};

// Moves running statistics towards those of the batch, as torch.lerp does.
inline void update_running(const Problem& p, const Running& running, int64_t k, double mean, double var) {
  const double count = double(p.count() * running.repeats);
  if (!running.mean || count == 0) return;
  auto move = [&](void* of, double batch) {
    const double now = read(of, running.dtype, k);
    write(now + running.momentum * (batch - now), of, running.dtype, k);
  };
  move(running.mean, mean);
  move(running.var, var * (count / (count > 1 ? count - 1 : 1)));
}

// What makes k of sums: those of this call are divided by the count, those from outside were.
inline double share_of(const Problem& p, const Backward& b) { return b.reduce ? 1.0 / double(p.count()) : 1; }

// What the second pass of backward takes off: dx = (dz a) rstd - k1 - k2 xhat, of k times rstd.
template <class T>
struct Correction {
  T k1, k2;
  Correction(const Problem& p, const Backward& b, double share, int64_t n, int64_t c, double rstd) : k1(0), k2(0) {
    if (b.constant) return;
    const int64_t k = statistic(p, n, c);
    k1 = T(b.sums[k] * share * rstd);
    k2 = T(b.sums[p.statistics() + k] * share * rstd);
  }
};

// From the sums over a row's pixels of dz, dz xhat, dz m and dz m xhat: its gradients, and what it adds to s1 and s2.
// Of a row whose parameters are maps, the first two are the latter.
inline void finish_row(const Problem& p, const Backward& b, int64_t row, const double* q, double* s1, double* s2) {
  if (p.maps) {
    *s1 += q[0], *s2 += q[1];
    return;
  }
  const double gamma = read(b.gamma, p.gamma_dtype, row) - (p.absolute ? 1 : 0);
  *s1 += q[0] + gamma * q[2];
  *s2 += q[1] + gamma * q[3];
  write(q[2], b.dbeta, p.beta_dtype, row);
  write(q[3], b.dgamma, p.gamma_dtype, row);
}
