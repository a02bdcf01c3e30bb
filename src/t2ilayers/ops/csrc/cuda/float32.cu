#include "runtime.cuh"

#include "launch.cuh"

template struct t2ilayers::gpu::Calls<float>;
