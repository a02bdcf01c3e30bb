// Vectors of the instruction set in force, threads and their memory. What the op computes of them is in formula.inl.
// Nothing here may call a template of the standard library: the linker keeps one copy of such a function, and
// it could be the one compiled for instructions that this processor lacks.

template <class T, int Bytes = T2ILAYERS_VECTOR_BYTES>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int64_t kLanes = T2ILAYERS_VECTOR_BYTES / sizeof(T);

#define T2ILAYERS_INLINE __attribute__((always_inline)) inline
#define T2ILAYERS_LAMBDA __attribute__((always_inline))
// Before a loop of constant length: what it works on stays in registers.
#ifdef __clang__
#define T2ILAYERS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define T2ILAYERS_UNROLL _Pragma("GCC unroll 16")
#endif

T2ILAYERS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
T2ILAYERS_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
T2ILAYERS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Lane indices as a parameter pack, so that compilers see permutations of constants.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct LanesUpTo : LanesUpTo<N - 1, N - 1, I...> {};
template <int... I>
struct LanesUpTo<0, I...> {
  typedef Lanes<I...> type;
};
template <class T>
using AllLanes = typename LanesUpTo<kLanes<T>>::type;

// Every lane `value`. Adding it to a vector of zeros would stay an addition, for 0 + -0 is not -0.
template <class T, int... I>
T2ILAYERS_INLINE Vec<T> splat(T value, Lanes<I...>) {
  return Vec<T>{(void(I), value)...};
}
template <class T>
T2ILAYERS_INLINE Vec<T> splat(T value) {
  return splat<T>(value, AllLanes<T>{});
}

// The first `count` lanes, by instructions that leave the rest of memory alone where the set has them: a memcpy of
// unknown length is a call, which rows of an odd length would pay for each.
#if T2ILAYERS_VECTOR_BYTES == 64
T2ILAYERS_INLINE uint16_t lanes_mask(int64_t count) { return uint16_t((1u << count) - 1); }
T2ILAYERS_INLINE Vec<float> load_some(const float* from, int64_t count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(lanes_mask(count), from);
}
T2ILAYERS_INLINE Vec<double> load_some(const double* from, int64_t count) {
  return (Vec<double>)_mm512_maskz_loadu_pd(uint8_t(lanes_mask(count)), from);
}
T2ILAYERS_INLINE void store_some(float* to, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(to, lanes_mask(count), (__m512)v);
}
T2ILAYERS_INLINE void store_some(double* to, Vec<double> v, int64_t count) {
  _mm512_mask_storeu_pd(to, uint8_t(lanes_mask(count)), (__m512d)v);
}
#elif T2ILAYERS_VECTOR_BYTES == 32
T2ILAYERS_INLINE __m256i lanes_mask(const float*, int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
T2ILAYERS_INLINE __m256i lanes_mask(const double*, int64_t count) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
T2ILAYERS_INLINE Vec<float> load_some(const float* from, int64_t count) {
  return (Vec<float>)_mm256_maskload_ps(from, lanes_mask(from, count));
}
T2ILAYERS_INLINE Vec<double> load_some(const double* from, int64_t count) {
  return (Vec<double>)_mm256_maskload_pd(from, lanes_mask(from, count));
}
T2ILAYERS_INLINE void store_some(float* to, Vec<float> v, int64_t count) {
  _mm256_maskstore_ps(to, lanes_mask(to, count), (__m256)v);
}
T2ILAYERS_INLINE void store_some(double* to, Vec<double> v, int64_t count) {
  _mm256_maskstore_pd(to, lanes_mask(to, count), (__m256d)v);
}
#else
template <class T>
T2ILAYERS_INLINE Vec<T> load_some(const T* from, int64_t count) {
  Vec<T> v{};
  __builtin_memcpy(&v, from, count * sizeof(T));
  return v;
}
template <class T>
T2ILAYERS_INLINE void store_some(T* to, Vec<T> v, int64_t count) {
  __builtin_memcpy(to, &v, count * sizeof(T));
}
#endif

template <class T>
T2ILAYERS_INLINE Vec<T> load(const T* from, int64_t count) {
  if (count != kLanes<T>) return load_some(from, count);
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
T2ILAYERS_INLINE void store(T* to, Vec<T> v, int64_t count) {
  if (count == kLanes<T>)
    __builtin_memcpy(to, &v, sizeof v);
  else
    store_some(to, v, count);
}

// The first `count` lanes, and 0 in the others.
template <class T>
T2ILAYERS_INLINE Vec<T> first_lanes(Vec<T> v, int64_t count) {
#if T2ILAYERS_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_mov_ps(lanes_mask(count), (__m512)v);
  else
    return (Vec<T>)_mm512_maskz_mov_pd(uint8_t(lanes_mask(count)), (__m512d)v);
#else
  for (int64_t i = count; i < kLanes<T>; ++i) v[i] = 0;
  return v;
#endif
}

// Whether a map of `count` values is gone from the caches before anyone reads it. Writing past them then spares
// reading what is overwritten.
template <class S>
T2ILAYERS_INLINE bool leaves_caches(int64_t count) {
  return count * int64_t(sizeof(S)) >= 16 << 20;
}

// store, past the caches if asked for and `to` is aligned; `fence` before others read.
template <class T>
T2ILAYERS_INLINE void put(T* to, Vec<T> v, int64_t count, bool stream) {
#if defined(__x86_64__)
  if (stream && count == kLanes<T> && reinterpret_cast<uintptr_t>(to) % sizeof v == 0) {
#if T2ILAYERS_VECTOR_BYTES == 64
    _mm512_stream_ps(reinterpret_cast<float*>(to), (__m512)v);
#elif T2ILAYERS_VECTOR_BYTES == 32
    _mm256_stream_ps(reinterpret_cast<float*>(to), (__m256)v);
#else
    _mm_stream_ps(reinterpret_cast<float*>(to), (__m128)v);
#endif
    return;
  }
#endif
  store(to, v, count);
}
T2ILAYERS_INLINE void fence(bool stream) {
#if defined(__x86_64__)
  if (stream) _mm_sfence();
#endif
}

template <class T>
T2ILAYERS_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if T2ILAYERS_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else
    return (Vec<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif T2ILAYERS_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else
    return (Vec<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;  // never contracted, so the same wherever it stands
#endif
}

// Halves are added until one lane is left: always the same order, and a few instructions.
template <class T, int Bytes = T2ILAYERS_VECTOR_BYTES>
T2ILAYERS_INLINE T sum(typename VectorOf<T, Bytes>::type v) {
  if constexpr (Bytes == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else {
    typename VectorOf<T, Bytes / 2>::type low, high;
    __builtin_memcpy(&low, &v, Bytes / 2);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + Bytes / 2, Bytes / 2);
    return sum<T, Bytes / 2>(low + high);
  }
}

template <int N>
struct Constant {
  static constexpr int value = N;
};
template <bool, class Yes, class No>
struct If {
  typedef Yes type;
};
template <class Yes, class No>
struct If<false, Yes, No> {
  typedef No type;
};

// Every lane twice: the first or, with From half of the lanes, the second half of the result.
template <class T, int From, int... I>
T2ILAYERS_INLINE Vec<T> twice(Vec<T> v, Lanes<I...>) {
  return Vec<T>{v[From + I / 2]...};
}
// Sums of neighbouring lanes of a, then of b.
template <class T, int... I>
T2ILAYERS_INLINE Vec<T> sum_pairs(Vec<T> a, Vec<T> b, Lanes<I...>) {
  constexpr int L = kLanes<T>;
  const Vec<T> even{(2 * I < L ? a[2 * I % L] : b[2 * I % L])...};
  const Vec<T> odd{(2 * I < L ? a[(2 * I + 1) % L] : b[(2 * I + 1) % L])...};
  return even + odd;
}

// to[i] += the sum of all lanes of v[i], which is overwritten.
template <class T, int N>
T2ILAYERS_INLINE void add_sums(Vec<T>* v, double* to) {
  constexpr int L = kLanes<T>;
  if constexpr (N % L == 0) {  // a tree adds up as many at a time as a vector has lanes
    T2ILAYERS_UNROLL
    for (int i = 0; i < N; i += L) {
      T2ILAYERS_UNROLL
      for (int many = L; many > 1; many /= 2)
        T2ILAYERS_UNROLL
        for (int j = 0; j < many / 2; ++j) v[i + j] = sum_pairs<T>(v[i + 2 * j], v[i + 2 * j + 1], AllLanes<T>{});
      T2ILAYERS_UNROLL
      for (int j = 0; j < L; ++j) to[i + j] += v[i][j];
    }
  } else {
    T2ILAYERS_UNROLL
    for (int i = 0; i < N; ++i) to[i] += sum<T>(v[i]);
  }
}

// step(i, count) over [0, length): whole vectors with count a constant, then the rest.
template <class T, class Step>
T2ILAYERS_INLINE void for_vectors(int64_t length, Step step) {
  int64_t i = 0;
  for (; i + kLanes<T> <= length; i += kLanes<T>) step(i, kLanes<T>);
  if (i < length) step(i, length - i);
}

// Count, mean and sum of squared deviations; merging (Chan et al.) is exact where E[x^2] - E[x]^2 is not.
struct Moments {
  double count = 0, mean = 0, m2 = 0;
  void merge(double other_count, double other_mean, double other_m2) {
    if (other_count == 0) return;
    if (count == 0) {
      *this = {other_count, other_mean, other_m2};
      return;
    }
    const double total = count + other_count, delta = other_mean - mean;
    // inf stays inf, as in a sum.
    mean = delta - delta == 0 ? mean + delta * (other_count / total) : (count * mean + other_count * other_mean) / total;
    m2 += other_m2 + delta * delta * (count * other_count / total);
    count = total;
  }
};

// The same of each(body), which calls body(values, mean, squared deviations) for every part: in two passes over few
// numbers, without a division for each part, which would show on small maps. A mean of inf stays inf.
template <class Each>
T2ILAYERS_INLINE void merge(const Each& each, double* mean, double* var) {
  double count = 0, total = 0, m2 = 0;
  each([&](double values, double part, double) T2ILAYERS_LAMBDA { count += values, total += values * part; });
  const double all = count ? total / count : 0;
  each([&](double values, double part, double squares) T2ILAYERS_LAMBDA {
    m2 += squares + values * (part - all) * (part - all);
  });
  *mean = all;
  *var = count ? m2 / count : 0;
}

// Runs body(begin, end) in parallel over parts of [0, tasks).
template <class Body>
void parallel(Parallel run, int64_t tasks, const Body& body) {
  if (tasks == 0) return;
  run(tasks, [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// A thread's working memory, aligned for vectors.
template <class T>
struct Buffer {
  T* data;
  explicit Buffer(int64_t count)
      : data(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(T2ILAYERS_VECTOR_BYTES)))) {}
  ~Buffer() { ::operator delete(data, std::align_val_t(T2ILAYERS_VECTOR_BYTES)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};
