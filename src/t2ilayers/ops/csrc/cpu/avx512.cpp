#define T2ILAYERS_ISA avx512
#define T2ILAYERS_VECTOR_BYTES 64
#if defined(__clang__) || __GNUC__ >= 10
#define T2ILAYERS_BF16
#define T2ILAYERS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512"
#else
#define T2ILAYERS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512"
#endif
#include "isa.inl"
