// What feature maps and parameters are stored as: float and double, which are themselves, and two halves of a float.

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What a storage type's values are to whoever only moves them.
template <class S>
struct Bits {
  typedef S type;
};
template <>
struct Bits<Half> {
  typedef uint16_t type;
};
template <>
struct Bits<BFloat16> {
  typedef uint16_t type;
};

// Vectors of as many 16 and 32-bit numbers as a vector has floats.
typedef uint16_t Vec16 __attribute__((vector_size(T2ILAYERS_VECTOR_BYTES / 2)));
typedef uint32_t Vec32 __attribute__((vector_size(T2ILAYERS_VECTOR_BYTES)));

T2ILAYERS_INLINE Vec32 bits_of(Vec<float> v) { return (Vec32)v; }
T2ILAYERS_INLINE Vec<float> floats_of(Vec32 v) { return (Vec<float>)v; }
template <class To, class From>
T2ILAYERS_INLINE To converted(From v) {
  return __builtin_convertvector(v, To);
}

T2ILAYERS_INLINE Vec16 rounded(Vec<float> v) {
  const Vec32 u = bits_of(v), near = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return converted<Vec16>(v == v ? near : Vec32{} + 0x7fc0u);
}
#ifdef T2ILAYERS_BF16
// One instruction where the processor has it. It would take subnormals for 0.
T2ILAYERS_INLINE Vec16 narrow(Vec<float> v, BFloat16) {
  constexpr int subnormal = 0x20;
  if (__builtin_expect(__builtin_cpu_supports("avx512bf16") && !_mm512_fpclass_ps_mask((__m512)v, subnormal), 1))
    return (Vec16)_mm512_cvtneps_pbh((__m512)v);
  return rounded(v);
}
#else
T2ILAYERS_INLINE Vec16 narrow(Vec<float> v, BFloat16) { return rounded(v); }
#endif

#if T2ILAYERS_VECTOR_BYTES == 64
T2ILAYERS_INLINE Vec<float> widen(Vec16 v, BFloat16) {
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)v), 16);
}
T2ILAYERS_INLINE Vec<float> widen(Vec16 v, Half) { return (Vec<float>)_mm512_cvtph_ps((__m256i)v); }
T2ILAYERS_INLINE Vec16 narrow(Vec<float> v, Half) {
  return (Vec16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
T2ILAYERS_INLINE Vec<float> widen(Vec16 v, BFloat16) { return floats_of(converted<Vec32>(v) << 16); }
// Exponents are rebiased by a multiplication, subnormals by a subtraction; both are exact.
T2ILAYERS_INLINE Vec<float> widen(Vec16 v, Half) {
  const Vec32 shifted = converted<Vec32>(v) << 16, magnitude = shifted << 1;
  const Vec<float> normal = floats_of((magnitude >> 4) + 0x70000000u) * 0x1p-112f;
  const Vec<float> subnormal = floats_of((magnitude >> 17) | 0x3f000000u) - 0.5f;
  const Vec32 chosen = magnitude < 0x08000000u ? bits_of(subnormal) : bits_of(normal);
  return floats_of((shifted & 0x80000000u) | chosen);
}
// The addition of a power of two lets the hardware round at the position where half's mantissa ends.
T2ILAYERS_INLINE Vec16 narrow(Vec<float> v, Half) {
  const Vec32 u = bits_of(v), doubled = u << 1;
  const Vec<float> scaled = (floats_of(u & 0x7fffffffu) * 0x1p112f) * 0x1p-110f;
  Vec32 bias = doubled & 0xff000000u;
  bias = bias < 0x71000000u ? Vec32{} + 0x71000000u : bias;
  const Vec32 sum = bits_of(floats_of((bias >> 1) + 0x07800000u) + scaled);
  const Vec32 magnitude = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
  return converted<Vec16>((u >> 16 & 0x8000u) | (doubled > 0xff000000u ? Vec32{} + 0x7e00u : magnitude));
}
#endif

T2ILAYERS_INLINE Vec16 load_bits(const uint16_t* from, int64_t count) {
  Vec16 v{};
  if (count == kLanes<float>) {
    __builtin_memcpy(&v, from, sizeof v);
  } else {
#if T2ILAYERS_VECTOR_BYTES == 64
    v = (Vec16)_mm256_maskz_loadu_epi16(lanes_mask(count), from);
#else
    for (int64_t i = 0; i < count; ++i) v[i] = from[i];
#endif
  }
  return v;
}
T2ILAYERS_INLINE void put_bits(uint16_t* to, Vec16 v, int64_t count, bool stream) {
#if T2ILAYERS_VECTOR_BYTES == 64
  if (stream && count == kLanes<float> && reinterpret_cast<uintptr_t>(to) % sizeof v == 0)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)v);
  else
    _mm256_mask_storeu_epi16(to, lanes_mask(count), (__m256i)v);
#else
  (void)stream;
  if (count == kLanes<float>)
    __builtin_memcpy(to, &v, sizeof v);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = v[i];
#endif
}

// load and put, of storage type S as a vector of T.
template <class T, class S>
T2ILAYERS_INLINE Vec<T> load_as(const S* from, int64_t count) {
  if constexpr (sizeof(S) == sizeof(T))
    return load(from, count);
  else
    return widen(load_bits(reinterpret_cast<const uint16_t*>(from), count), S{});
}
template <class T, class S>
T2ILAYERS_INLINE void put_as(S* to, Vec<T> v, int64_t count, bool stream) {
  if constexpr (sizeof(S) == sizeof(T))
    put(to, v, count, stream);
  else
    put_bits(reinterpret_cast<uint16_t*>(to), narrow(v, S{}), count, stream);
}

// A value of a tensor, whatever its dtype, for what is not worth a vector. Each row of a map has some.
__attribute__((noinline)) inline double read_other(const void* from, DType type, int64_t i) {
  switch (type) {
    case DType::f16: return widen(Vec16{} + static_cast<const Half*>(from)[i].bits, Half{})[0];
    case DType::bf16: return widen(Vec16{} + static_cast<const BFloat16*>(from)[i].bits, BFloat16{})[0];
    default: return static_cast<const double*>(from)[i];
  }
}
T2ILAYERS_INLINE double read(const void* from, DType type, int64_t i) {
  return type == DType::f32 ? static_cast<const float*>(from)[i] : read_other(from, type, i);
}
__attribute__((noinline)) inline void write_other(double value, void* to, DType type, int64_t i) {
  switch (type) {
    case DType::f16: static_cast<Half*>(to)[i].bits = narrow(Vec<float>{} + float(value), Half{})[0]; return;
    case DType::bf16: static_cast<BFloat16*>(to)[i].bits = narrow(Vec<float>{} + float(value), BFloat16{})[0]; return;
    default: static_cast<double*>(to)[i] = value;
  }
}
T2ILAYERS_INLINE void write(double value, void* to, DType type, int64_t i) {
  if (type == DType::f32)
    static_cast<float*>(to)[i] = float(value);
  else
    write_other(value, to, type, i);
}

template <class T>
constexpr DType kType = sizeof(T) == 4 ? DType::f32 : DType::f64;

// The same as T, quickly where it is one: each row reads its own.
template <class T>
T2ILAYERS_INLINE T value(const void* from, DType type, int64_t i) {
  return type == kType<T> ? static_cast<const T*>(from)[i] : T(read(from, type, i));
}

// A vector of a tensor, whatever its dtype.
template <class T>
T2ILAYERS_INLINE Vec<T> load_any(const void* from, DType type, int64_t at, int64_t count) {
  if (type == kType<T>) return load(static_cast<const T*>(from) + at, count);
  if constexpr (sizeof(T) == 4) {
    if (type == DType::f16) return load_as<T>(static_cast<const Half*>(from) + at, count);
    if (type == DType::bf16) return load_as<T>(static_cast<const BFloat16*>(from) + at, count);
  }
  Vec<T> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = T(read(from, type, at + i));
  return v;
}
template <class T>
T2ILAYERS_INLINE void store_any(Vec<T> v, void* to, DType type, int64_t at, int64_t count) {
  if (type == kType<T>) return store(static_cast<T*>(to) + at, v, count);
  if constexpr (sizeof(T) == 4) {
    if (type == DType::f16) return put_as<T>(static_cast<Half*>(to) + at, v, count, false);
    if (type == DType::bf16) return put_as<T>(static_cast<BFloat16*>(to) + at, v, count, false);
  }
  for (int64_t i = 0; i < count; ++i) write(v[i], to, type, at + i);
}

// `count` values from `at` on, as T: where they are, or in the buffer.
template <class T>
__attribute__((noinline)) const T* fetch(const void* from, DType type, int64_t at, int64_t count, T* buffer) {
  if (type == kType<T>) return static_cast<const T*>(from) + at;
  for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    store(buffer + i, load_any<T>(from, type, at + i, some), some);
  });
  return buffer;
}

// Where to compute what goes to `to`: there, or in a buffer that write_back writes there.
template <class T>
T2ILAYERS_INLINE T* in_place(void* to, DType type, int64_t at, T* buffer) {
  return type == kType<T> ? static_cast<T*>(to) + at : buffer;
}
template <class T>
__attribute__((noinline)) void write_back(const T* from, void* to, DType type, int64_t at, int64_t count) {
  if (type == kType<T>) return;
  for_vectors<T>(count, [&](int64_t i, int64_t some) T2ILAYERS_LAMBDA {
    store_any<T>(load(from + i, some), to, type, at + i, some);
  });
}
