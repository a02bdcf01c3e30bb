#include "runtime.cuh"

#include "launch.cuh"

template struct t2ilayers::gpu::Calls<t2ilayers::gpu::BFloat16>;
