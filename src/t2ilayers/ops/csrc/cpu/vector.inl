// Vectors of the instruction set in force, conversions of storage types, and the op's per-element formulas.
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

// Whether a map of `count` values is gone from the caches before anyone reads it. Writing past them then spares
// reading what is overwritten. A narrowed map is written by scalar code, which cannot.
template <class S, class T>
T2ILAYERS_INLINE bool leaves_caches(int64_t count) {
  return sizeof(S) == sizeof(T) && count * int64_t(sizeof(T)) > 16 << 20;
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
    for (int i = 0; i < N; i += L) {
      for (int many = L; many > 1; many /= 2)
        for (int j = 0; j < many / 2; ++j) v[i + j] = sum_pairs<T>(v[i + 2 * j], v[i + 2 * j + 1], AllLanes<T>{});
      for (int j = 0; j < L; ++j) to[i + j] += v[i][j];
    }
  } else {
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

// Storage types: float and double are themselves.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

T2ILAYERS_INLINE uint32_t bits_of(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}
T2ILAYERS_INLINE float float_of(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

T2ILAYERS_INLINE float widen(float v) { return v; }
T2ILAYERS_INLINE double widen(double v) { return v; }
T2ILAYERS_INLINE float widen(BFloat16 v) { return float_of(uint32_t(v.bits) << 16); }
// Exponents are rebiased by a multiplication, subnormals by a subtraction; both are exact.
T2ILAYERS_INLINE float widen(Half v) {
  const uint32_t shifted = uint32_t(v.bits) << 16, magnitude = shifted << 1;
  const float normal = float_of((magnitude >> 4) + 0x70000000u) * 0x1p-112f;
  const float subnormal = float_of((magnitude >> 17) | 0x3f000000u) - 0.5f;
  const uint32_t chosen = magnitude < 0x08000000u ? bits_of(subnormal) : bits_of(normal);
  return float_of((shifted & 0x80000000u) | chosen);
}

T2ILAYERS_INLINE void narrow(float v, float* to) { *to = v; }
T2ILAYERS_INLINE void narrow(double v, double* to) { *to = v; }
T2ILAYERS_INLINE void narrow(float v, BFloat16* to) {
  const uint32_t u = bits_of(v);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  to->bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
// The addition of a power of two lets the hardware round at the position where half's mantissa ends.
T2ILAYERS_INLINE void narrow(float v, Half* to) {
  const uint32_t u = bits_of(v), doubled = u << 1;
  const float scaled = (float_of(u & 0x7fffffffu) * 0x1p112f) * 0x1p-110f;
  uint32_t bias = doubled & 0xff000000u;
  bias = bias < 0x71000000u ? 0x71000000u : bias;
  const uint32_t sum = bits_of(float_of((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t magnitude = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
  to->bits = uint16_t((u >> 16 & 0x8000u) | (doubled > 0xff000000u ? 0x7e00u : magnitude));
}

// Where to compute what goes to `to`: there, or in a buffer that write_back narrows into it.
template <class T>
T2ILAYERS_INLINE T* in_place(T* to, T*) {
  return to;
}
template <class S, class T>
T2ILAYERS_INLINE T* in_place(S*, T* buffer) {
  return buffer;
}
template <class T>
T2ILAYERS_INLINE void write_back(const T*, T*, int64_t) {}
template <class S, class T>
T2ILAYERS_INLINE void write_back(const T* from, S* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}

T2ILAYERS_INLINE int64_t statistic(const Problem& p, int64_t n, int64_t c) {
  return p.groups ? n * p.groups + c / (p.c / p.groups) : c;
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
};

// What a row (one sample's channel) brings to the formulas.
template <class T>
struct Row {
  T high, offset, rstd, gamma, beta;
};

template <class T>
struct Affine {
  Vec<T> xhat, shift, z;  // shift = gamma xhat + beta, z = xhat + m shift
};

// Forward and backward must agree on the sign of z, so both take it from here.
template <class T>
T2ILAYERS_INLINE Affine<T> affine(Vec<T> x, Vec<T> m, Vec<T> high, Vec<T> offset, Vec<T> rstd, Vec<T> gamma,
                                  Vec<T> beta) {
  Affine<T> out;
  out.xhat = fma<T>(x - high, rstd, offset);
  out.shift = fma<T>(gamma, out.xhat, beta);
  out.z = fma<T>(m, out.shift, out.xhat);
  return out;
}

template <class T>
T2ILAYERS_INLINE Affine<T> affine(Vec<T> x, Vec<T> m, const Row<T>& r) {
  return affine<T>(x, m, splat<T>(r.high), splat<T>(r.offset), splat<T>(r.rstd), splat<T>(r.gamma),
                   splat<T>(r.beta));
}

// act(v) where `z` decides the branch: the activation for v = z, its gradient for v = dy.
template <class T>
T2ILAYERS_INLINE Vec<T> activate(Vec<T> z, Vec<T> v, Vec<T> slope) {
  return z > 0 ? v : v * slope;
}

// A value of a tensor, whatever its dtype: for what is not worth a vector.
T2ILAYERS_INLINE double read(const void* from, DType type, int64_t i) {
  switch (type) {
    case DType::f64: return static_cast<const double*>(from)[i];
    case DType::f16: return widen(static_cast<const Half*>(from)[i]);
    case DType::bf16: return widen(static_cast<const BFloat16*>(from)[i]);
    default: return static_cast<const float*>(from)[i];
  }
}
T2ILAYERS_INLINE void write(double value, void* to, DType type, int64_t i) {
  switch (type) {
    case DType::f64: static_cast<double*>(to)[i] = value; return;
    case DType::f16: narrow(float(value), static_cast<Half*>(to) + i); return;
    case DType::bf16: narrow(float(value), static_cast<BFloat16*>(to) + i); return;
    default: static_cast<float*>(to)[i] = float(value);
  }
}

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
    mean += delta * (other_count / total);
    m2 += other_m2 + delta * delta * (count * other_count / total);
    count = total;
  }
};

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
