// The library's ops on CUDA tensors. The ops themselves are defined in the CPU library, which is loaded first.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "runtime.cuh"

#include "../entry.h"
#include "calls.cuh"
#include "finish.cuh"

// Only a torch built for CUDA has it; weak, so that the library can be loaded, if not used, with any.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace t2ilayers {
namespace {

struct Cuda {
  static const char* lacks(const Problem& p) {
    if (p.dtype == DType::f64) return "float64; impl='reference' has it";
    if (p.maps && (p.gamma_dtype != p.dtype || p.beta_dtype != p.dtype))
      return "gamma and beta that are maps of another dtype than x's";
    return nullptr;
  }

  template <class Call>
  static int64_t scratch_bytes(const Problem& p, const Call& call) {
    STD_TORCH_CHECK(p.out_pixels() <= int64_t(1) << 30 && p.c <= int64_t(1) << 30,
                    "on CUDA a channel of the output has at most 2^30 pixels, got ", p.out_pixels());
    return gpu::typed(p, [&](auto calls) { return calls.scratch_bytes(p, call); });
  }

  static void statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, int device) {
    run(p, device, [&](auto calls, auto stream) { calls.statistics(p, x, {mean, var, {}}, scratch, stream); });
  }
  static void forward(const Problem& p, const Forward& f, void* scratch, int device) {
    run(p, device, [&](auto calls, auto stream) { calls.forward(p, f, scratch, stream); });
  }
  static void backward(const Problem& p, const Backward& b, void* scratch, int device) {
    run(p, device, [&](auto calls, auto stream) { calls.backward(p, b, scratch, stream); });
  }
  static void chain(const Problem& p, const Chain& a, void*, int device) {
    run(p, device, [&](auto calls, auto stream) { calls.chain(p, a, stream); });
  }
  static void chain_backward(const Problem& p, const ChainBackward& a, void* scratch, int device) {
    run(p, device, [&](auto calls, auto stream) { calls.chain(p, a, scratch, stream); });
  }

 private:
  template <class Call>
  static void run(const Problem& p, int device, Call call) {
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch is built without CUDA");
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == 0, "no current CUDA stream");
    gpu::typed(p, [&](auto calls) { call(calls, static_cast<cudaStream_t>(stream)); });
  }
};

}  // namespace
}  // namespace t2ilayers

STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CUDA, m) { T2ILAYERS_IMPLEMENT(m, t2ilayers::Cuda); }
