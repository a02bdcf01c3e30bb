// Rows of adjacent channels as columns: a vector for each pixel, with a lane for each channel.

// Lanes of a and b in turn, those from From on.
template <class T, int From, int... I>
T2ILAYERS_INLINE Vec<T> in_turn(Vec<T> a, Vec<T> b, Lanes<I...>) {
  return Vec<T>{(I % 2 ? b : a)[From + I / 2]...};
}

// Lane i of vector j changes places with lane j of vector i. Each round moves one bit of j to the end of i.
template <class T>
T2ILAYERS_INLINE void transpose(Vec<T>* v) {
  constexpr int L = kLanes<T>;
  T2ILAYERS_UNROLL
  for (int round = 1; round < L; round *= 2) {
    Vec<T> mixed[L];
    T2ILAYERS_UNROLL
    for (int j = 0; j < L / 2; ++j) {
      mixed[2 * j] = in_turn<T, 0>(v[j], v[j + L / 2], AllLanes<T>{});
      mixed[2 * j + 1] = in_turn<T, L / 2>(v[j], v[j + L / 2], AllLanes<T>{});
    }
    T2ILAYERS_UNROLL
    for (int j = 0; j < L; ++j) v[j] = mixed[j];
  }
}

// Lanes past the last channel repeat it. What is `ahead` of the rows is asked for in advance: blocks lie so far apart
// that the hardware does not foresee the next.
template <class T, class S>
__attribute__((noinline)) void read_columns(const S* rows, int64_t pixels, int64_t channels, int64_t ahead,
                                            Vec<T>* to) {
  for_vectors<T>(pixels, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    Vec<T> v[kLanes<T>];
    T2ILAYERS_UNROLL
    for (int j = 0; j < kLanes<T>; ++j) {
      const S* row = rows + smaller(j, channels - 1) * pixels + i;
      v[j] = load_as<T>(row, some);
      __builtin_prefetch(row + ahead);
    }
    transpose<T>(v);
    T2ILAYERS_UNROLL
    for (int j = 0; j < kLanes<T>; ++j)
      if (j < some) to[i + j] = v[j];
  });
}

template <class T, class S>
__attribute__((noinline)) void write_columns(const Vec<T>* from, int64_t pixels, int64_t channels, int64_t ahead,
                                             S* rows) {
  for_vectors<T>(pixels, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    Vec<T> v[kLanes<T>];
    T2ILAYERS_UNROLL
    for (int j = 0; j < kLanes<T>; ++j) v[j] = from[j < some ? i + j : i];
    transpose<T>(v);
    T2ILAYERS_UNROLL
    for (int j = 0; j < kLanes<T>; ++j)
      if (j < channels) {
        put_as<T>(rows + j * pixels + i, v[j], some, false);
        __builtin_prefetch(rows + j * pixels + i + ahead, 1);
      }
  });
}

// to[i] = the sum over channels.
template <class T>
__attribute__((noinline)) void sum_columns(const Vec<T>* from, int64_t pixels, int64_t channels, T* to) {
  for_vectors<T>(pixels, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    Vec<T> v[kLanes<T>];
    T2ILAYERS_UNROLL
    for (int j = 0; j < kLanes<T>; ++j) {
      v[j] = from[j < some ? i + j : i];
      if (channels < kLanes<T>) v[j] = first_lanes<T>(v[j], channels);
    }
    store(to + i, sums_of<T, kLanes<T>>(v), some);
  });
}

// As many doubles as a vector of T has lanes.
template <class T>
struct Doubles {
  static constexpr int kParts = sizeof(double) / sizeof(T);
  Vec<double> part[kParts];

  T2ILAYERS_INLINE static Doubles of(Vec<T> v) {
    typename VectorOf<T, T2ILAYERS_VECTOR_BYTES / kParts>::type narrow;
    Doubles out;
    T2ILAYERS_UNROLL
    for (int i = 0; i < kParts; ++i) {
      __builtin_memcpy(&narrow, reinterpret_cast<const char*>(&v) + i * sizeof narrow, sizeof narrow);
      out.part[i] = converted<Vec<double>>(narrow);
    }
    return out;
  }
  T2ILAYERS_INLINE void operator+=(Vec<T> v) {
    const Doubles more = of(v);
    T2ILAYERS_UNROLL
    for (int i = 0; i < kParts; ++i) part[i] += more.part[i];
  }
  T2ILAYERS_INLINE double operator[](int64_t lane) const { return part[lane / kLanes<double>][lane % kLanes<double>]; }
};

// Mean and biased variance of each channel. Squares of doubles hold all digits of a float's, and the shift by the
// first value keeps those of a double's. A mean of inf stays inf.
template <class T>
struct ColumnMoments {
  Doubles<T> start, total{}, squares{};
  int64_t count = 0;

  __attribute__((noinline)) void add(const Vec<T>* x, int64_t pixels) {
    if (count == 0) {
      start = Doubles<T>::of(x[0]);
      T2ILAYERS_UNROLL
      for (auto& s : start.part) s = s - s == 0 ? s : Vec<double>{};
    }
    const Doubles<T> shift = start;  // copies, which stay in registers
    Doubles<T> sum = total, square = squares;
    for (int64_t i = 0; i < pixels; ++i) {
      const Doubles<T> v = Doubles<T>::of(x[i]);
      T2ILAYERS_UNROLL
      for (int j = 0; j < Doubles<T>::kParts; ++j) {
        const Vec<double> d = v.part[j] - shift.part[j];
        sum.part[j] += d;
        square.part[j] = fma<double>(d, d, square.part[j]);
      }
    }
    total = sum, squares = square, count += pixels;
  }

  void finish(Doubles<T>* mean, Doubles<T>* var) const {
    const Vec<double> share = splat<double>(1 / double(count));
    T2ILAYERS_UNROLL
    for (int j = 0; j < Doubles<T>::kParts; ++j) {
      const Vec<double> delta = total.part[j] * share, v = (squares.part[j] - total.part[j] * delta) * share;
      mean->part[j] = start.part[j] + delta;
      var->part[j] = v < 0 ? Vec<double>{} : v;
    }
  }
};
