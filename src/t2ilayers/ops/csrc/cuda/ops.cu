// The library's ops on CUDA tensors. The ops themselves are defined in the CPU library, which is loaded first.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../entry.h"

// Only a torch built for CUDA has it; weak, so that the library can be loaded, if not used, with any.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

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

#include "launch.cuh"

namespace t2ilayers {
namespace {

struct Cuda {
  static const char* lacks(const Problem& p) {
    if (p.dtype == DType::f64) return "float64; impl='reference' has it";
    if (p.gamma_dtype != DType::f32 || p.beta_dtype != DType::f32 || p.mask_dtype != DType::f32)
      return "gamma, beta and mask of other dtypes than float32";
    if (!p.normalized()) return "stats of none";
    if (p.maps) return "gamma and beta that are maps";
    if (p.absolute) return "the absolute scale";
    if (p.activation == Activation::silu) return "silu";
    return nullptr;
  }

  static int64_t scratch_bytes(const Problem& p) {
    STD_TORCH_CHECK(p.out_pixels() <= int64_t(1) << 30 && p.c <= int64_t(1) << 30,
                    "on CUDA a channel of the output has at most 2^30 pixels, got ", p.out_pixels());
    return gpu::scratch_bytes(p);
  }

  static void chain(const Problem&, const Chain&, void*, int) {}
  static void chain_backward(const Problem&, const ChainBackward&, void*, int) {}

  static void statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, int device) {
    const torch::stable::accelerator::DeviceGuard guard(device);
    gpu::statistics(p, x, mean, var, scratch, stream(device));
  }
  static void forward(const Problem& p, const Forward& f, void* scratch, int device) {
    STD_TORCH_CHECK(!f.running.mean, "these native kernels do not update running statistics");
    const torch::stable::accelerator::DeviceGuard guard(device);
    gpu::forward(p, f, scratch, stream(device));
  }
  static void backward(const Problem& p, const Backward& b, void* scratch, int device) {
    const torch::stable::accelerator::DeviceGuard guard(device);
    gpu::backward(p, b, scratch, stream(device));
  }

 private:
  static cudaStream_t stream(int device) {
    void* current = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch is built without CUDA");
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &current) == 0, "no current CUDA stream");
    return static_cast<cudaStream_t>(current);
  }
};

}  // namespace
}  // namespace t2ilayers

STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CUDA, m) { T2ILAYERS_IMPLEMENT(m, t2ilayers::Cuda); }
