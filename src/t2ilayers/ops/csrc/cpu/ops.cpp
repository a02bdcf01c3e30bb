// The library's ops, and their CPU implementation by whichever instruction set this processor has.
#include "kernels.h"
#include "../entry.h"

namespace t2ilayers {
namespace {

const CpuKernels& kernels() {
#if defined(__x86_64__)
  static const CpuKernels& chosen = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                                        ? avx512
                                    : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2
                                                                                                      : baseline;
  return chosen;
#else
  return baseline;
#endif
}

const CpuKernels& kernels(const Problem& p) { return p.dtype == DType::f64 ? baseline : kernels(); }

struct Cpu {
  static void run(int64_t tasks, void (*task)(int64_t, int64_t, void*), void* context) {
    torch_parallel_for(0, tasks, 1, task, context);
  }
  static const char* lacks(const Problem&) { return nullptr; }
  static int64_t scratch_bytes(const Problem& p, Pass pass) { return kernels(p).scratch_bytes(p, pass); }
  static int64_t scratch_bytes(const Problem& p, const void*) { return scratch_bytes(p, Pass::statistics); }
  static int64_t scratch_bytes(const Problem& p, const Forward&) { return scratch_bytes(p, Pass::forward); }
  static int64_t scratch_bytes(const Problem& p, const Backward&) { return scratch_bytes(p, Pass::backward); }
  static int64_t scratch_bytes(const Problem& p, const Chain&) { return scratch_bytes(p, Pass::chain); }
  static int64_t scratch_bytes(const Problem& p, const ChainBackward&) {
    return scratch_bytes(p, Pass::chain_backward);
  }
  static void statistics(const Problem& p, const void* x, double* mean, double* var, void* scratch, int) {
    kernels(p).statistics(p, x, mean, var, scratch, run, torch::stable::get_num_threads());
  }
  static void forward(const Problem& p, const Forward& f, void* scratch, int) {
    kernels(p).forward(p, f, scratch, run, torch::stable::get_num_threads());
  }
  static void backward(const Problem& p, const Backward& b, void* scratch, int) {
    kernels(p).backward(p, b, scratch, run, torch::stable::get_num_threads());
  }
  static void chain(const Problem& p, const Chain& a, void*, int) { kernels(p).chain(p, a, run); }
  static void chain_backward(const Problem& p, const ChainBackward& a, void* scratch, int) {
    kernels(p).chain_backward(p, a, scratch, run);
  }
};

std::string cpu_capability() { return kernels().name; }

}  // namespace
}  // namespace t2ilayers

// entry.h's Options, which end every op of the norm.
#define OPTIONS "int groups, float eps, float slope, bool silu, bool absolute, int upsample"

STABLE_TORCH_LIBRARY(t2ilayers, m) {
  m.def("masked_affine_norm_statistics(Tensor x, int groups) -> (Tensor mean, Tensor var)");
  m.def("masked_affine_norm_forward(Tensor x, Tensor gamma, Tensor beta, Tensor? mask, Tensor? mean, Tensor? var, "
        OPTIONS ") -> (Tensor y, Tensor mean_out, Tensor var_out)");
  m.def("masked_affine_norm_forward_running(Tensor x, Tensor gamma, Tensor beta, Tensor? mask, "
        "Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, int repeats, "
        OPTIONS ") -> (Tensor y, Tensor mean, Tensor var)");
  m.def("masked_affine_norm_backward(Tensor dy, Tensor x, Tensor gamma, Tensor beta, Tensor? mask, Tensor mean, "
        "Tensor var, bool constant, bool need_dx, bool need_parameters, bool need_dmask, "
        OPTIONS ") -> (Tensor dx, Tensor dgamma, Tensor dbeta, Tensor dmask)");
  m.def("masked_affine_norm_backward_sums(Tensor dy, Tensor x, Tensor gamma, Tensor beta, Tensor? mask, Tensor mean, "
        "Tensor var, bool need_dmask, "
        OPTIONS ") -> (Tensor sums, Tensor dgamma, Tensor dbeta, Tensor dmask)");
  m.def("masked_affine_norm_backward_input(Tensor dy, Tensor x, Tensor gamma, Tensor beta, Tensor? mask, Tensor mean, "
        "Tensor var, Tensor k, " OPTIONS ") -> Tensor");
  m.def("affine_chain_forward(Tensor x, Tensor gammas, Tensor betas, float slope, bool silu, int upsample) -> Tensor");
  m.def("affine_chain_backward(Tensor dy, Tensor x, Tensor gammas, Tensor betas, float slope, bool silu, int upsample, "
        "bool need_dx, bool need_parameters) -> (Tensor dx, Tensor dgammas, Tensor dbetas)");
  m.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CPU, m) { T2ILAYERS_IMPLEMENT(m, t2ilayers::Cpu); }

STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&t2ilayers::cpu_capability));
}
