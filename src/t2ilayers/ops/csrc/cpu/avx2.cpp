#define T2ILAYERS_ISA avx2
#define T2ILAYERS_VECTOR_BYTES 32
#define T2ILAYERS_TARGET "avx2,fma"
#include "isa.inl"
