// How kernels are launched. tests/ops/cuda_emulation/runtime.h is the same for a machine without a GPU.
#pragma once
#include <cuda_runtime.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace t2ilayers {
namespace gpu {

using Stream = cudaStream_t;

template <class... P, class... A>
void launch(Stream stream, void (*kernel)(P...), int64_t blocks, int threads, A... arguments) {
  if (blocks == 0) return;
  STD_TORCH_CHECK(blocks < int64_t(1) << 31, "this map is too large for one launch: it takes ", blocks, " blocks");
  kernel<<<unsigned(blocks), threads, 0, stream>>>(arguments...);
  // Torch's own check is of a function that a torch built without CUDA lacks.
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA error at a launch of t2ilayers: ", cudaGetErrorString(error));
}

}  // namespace gpu
}  // namespace t2ilayers
