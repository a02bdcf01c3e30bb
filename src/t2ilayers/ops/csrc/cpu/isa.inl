// The CPU kernels for one instruction set. The including file names it (T2ILAYERS_ISA), the bytes of its vectors
// and, unless it is the compiler's default, its target: -march flags would reach every file of the library.
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

#if !defined(T2ILAYERS_TARGET) || defined(__x86_64__)
#ifdef T2ILAYERS_TARGET

#define T2ILAYERS_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define T2ILAYERS_PUSH(target_) \
  T2ILAYERS_PRAGMA(clang attribute push(__attribute__((target(target_))), apply_to = function))
T2ILAYERS_PUSH(T2ILAYERS_TARGET)
#else
#define T2ILAYERS_PUSH(target_) T2ILAYERS_PRAGMA(GCC target(target_))
T2ILAYERS_PUSH(T2ILAYERS_TARGET)
#endif
#endif

#define T2ILAYERS_STRING2(name) #name
#define T2ILAYERS_STRING(name) T2ILAYERS_STRING2(name)

namespace t2ilayers {
namespace {

#include "vector.inl"
#include "planes.inl"
#include "pixels.inl"

// visit<S, T>: the types of a feature map and of its arithmetic.
template <class Visit>
auto with_types(const Problem& p, Visit visit) {
  switch (p.dtype) {
    case DType::f64: return visit(double{}, double{});
    case DType::f16: return visit(Half{}, float{});
    case DType::bf16: return visit(BFloat16{}, float{});
    default: return visit(float{}, float{});
  }
}

const char* lacks(const Problem& p) {
  const DType type = p.dtype == DType::f64 ? DType::f64 : DType::f32;
  if (p.gamma_dtype != type || p.beta_dtype != type || p.mask_dtype != type)
    return "gamma, beta and mask of other dtypes than float32, or float64 for such an x";
  if (!p.normalized()) return "stats of none";
  if (p.maps) return "gamma and beta that are maps";
  if (p.absolute) return "the absolute scale";
  if (p.activation == Activation::silu) return "silu";
  return nullptr;
}

int64_t scratch_bytes(const Problem& p) {
  return with_types(p, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    if (p.channels_last) return pixels_scratch_bytes<T>(p);
    return larger(PlanesForward<S, T>::scratch_bytes(p), PlanesBackward<S, T>::scratch_bytes(p));
  });
}

void statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, Parallel run,
                int64_t threads) {
  with_types(p, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    if (p.channels_last)
      pixels_statistics<S, T>(p, x, mean, var, scratch, run);
    else
      planes_statistics<S, T>(p, x, mean, var, scratch, run, threads);
  });
}

void forward(const Problem& p, const Forward& f, void* scratch, Parallel run, int64_t threads) {
  with_types(p, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    if (p.channels_last)
      pixels_forward<S, T>(p, f, scratch, run);
    else
      planes_forward<S, T>(p, f, scratch, run, threads);
  });
}

void backward(const Problem& p, const Backward& b, void* scratch, Parallel run, int64_t threads) {
  with_types(p, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    if (p.channels_last)
      pixels_backward<S, T>(p, b, scratch, run);
    else
      planes_backward<S, T>(p, b, scratch, run, threads);
  });
}

}  // namespace

extern const CpuKernels T2ILAYERS_ISA;
const CpuKernels T2ILAYERS_ISA{T2ILAYERS_STRING(T2ILAYERS_ISA), lacks, scratch_bytes, statistics, forward, backward};

}  // namespace t2ilayers

#if defined(__clang__) && defined(T2ILAYERS_TARGET)
#pragma clang attribute pop
#endif
#endif
