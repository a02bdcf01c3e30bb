#define T2ILAYERS_ISA baseline
#define T2ILAYERS_VECTOR_BYTES 16
#include "isa.inl"
