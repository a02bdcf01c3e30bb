// The CPU kernels for one instruction set. The including file names it (T2ILAYERS_ISA), the bytes of its vectors
// and, unless it is the compiler's default, its target: -march flags would reach every file of the library.
// The files it includes are .inl and no headers: they are parts of this one, compiled three times, each time within
// a namespace of its own and for other instructions.
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
#include "half.inl"
#include "formula.inl"
#include "moments.inl"
#include "planes.inl"
#include "planes_forward.inl"
#include "planes_backward.inl"
#include "columns.inl"
#include "small.inl"
#include "pixels.inl"
#include "chain.inl"

// float64 is for checks, which do not need wide vectors: one set of kernels for it is less to compile.
constexpr bool kDoubles = T2ILAYERS_VECTOR_BYTES == 16;

// visit<S, T>: the types of a feature map and of its arithmetic.
template <class Visit>
auto with_types(const Problem& p, Visit visit) {
  if constexpr (kDoubles)
    if (p.dtype == DType::f64) return visit(double{}, double{});
  switch (p.dtype) {
    case DType::f16: return visit(Half{}, float{});
    case DType::bf16: return visit(BFloat16{}, float{});
    default: return visit(float{}, float{});
  }
}

int64_t scratch_bytes(const Problem& p, Pass pass) {
  return with_types(p, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    switch (pass) {
      case Pass::chain: return int64_t(0);
      case Pass::chain_backward: return chain_scratch_bytes<T>(p);
      case Pass::backward:
        if (Small<S, T>::takes(p)) return SmallBackward<S, T>::scratch_bytes(p);
        return p.channels_last ? PixelsBackward<S, T>::scratch_bytes(p) : PlanesBackward<S, T>::scratch_bytes(p);
      default: return p.channels_last ? PixelsForward<S, T>::scratch_bytes(p) : PlanesForward<S, T>::scratch_bytes(p);
    }
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
    else if (Small<S, T>::takes(p))
      small_forward<S, T>(p, f, run);
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
    else if (Small<S, T>::takes(p))
      small_backward<S, T>(p, b, scratch, run);
    else
      planes_backward<S, T>(p, b, scratch, run, threads);
  });
}

void chain(const Problem& p, const Chain& a, Parallel run) {
  with_types(p, [&](auto s, auto t) {
    if (p.channels_last)
      pixels_chain<decltype(s), decltype(t)>(p, a, run);
    else
      planes_chain<decltype(s), decltype(t)>(p, a, run);
  });
}

void chain_backward(const Problem& p, const ChainBackward& a, void* scratch, Parallel run) {
  with_types(p, [&](auto s, auto t) {
    if (p.channels_last)
      pixels_chain_backward<decltype(s), decltype(t)>(p, a, scratch, run);
    else
      planes_chain_backward<decltype(s), decltype(t)>(p, a, run);
  });
}

}  // namespace

extern const CpuKernels T2ILAYERS_ISA;
const CpuKernels T2ILAYERS_ISA{T2ILAYERS_STRING(T2ILAYERS_ISA), scratch_bytes, statistics, forward, backward, chain, chain_backward};

}  // namespace t2ilayers

#if defined(__clang__) && defined(T2ILAYERS_TARGET)
#pragma clang attribute pop
#endif
#endif
