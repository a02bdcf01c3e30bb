#define T2ILAYERS_ISA avx512
#define T2ILAYERS_VECTOR_BYTES 64
#define T2ILAYERS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512"
#include "isa.inl"
