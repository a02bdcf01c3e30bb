// The ops as torch calls them: checks, allocation and the order of passes, the same for every device.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "problem.h"

namespace t2ilayers {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A Backend provides, for one kind of device,
//   static int64_t scratch_bytes(const Problem&);  // enough for any of the three
//   static void statistics(const Problem&, const void* x, double* mean, double* var, void* scratch, int device);
//   static void forward(const Problem&, const Forward&, void* scratch, int device);
//   static void backward(const Problem&, const Backward&, void* scratch, int device);
template <class Backend>
struct Ops {
  static bool channels_last(const Tensor& x) {
    if (x.is_contiguous()) return false;
    const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
    const int64_t size[4] = {x.size(0), h, w, c};
    const int64_t stride[4] = {x.stride(0), x.stride(2), x.stride(3), x.stride(1)};
    int64_t expected = 1;
    for (int i = 3; i >= 0; --i) {
      if (size[i] != 1 && stride[i] != expected) return false;
      expected *= size[i];
    }
    return true;
  }

  // Neither layout: a copy in the plain one.
  static Tensor dense(const Tensor& x, bool last) {
    if (last ? channels_last(x) : x.is_contiguous()) return x;
    return torch::stable::contiguous(x, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  }

  static std::optional<Tensor> dense(const std::optional<Tensor>& x) {
    return x ? std::optional<Tensor>(dense(*x, false)) : std::nullopt;
  }

  static Problem problem(const Tensor& x, int64_t groups, double eps, double slope, int64_t up) {
    STD_TORCH_CHECK(x.dim() == 4, "x must be (N, C, H, W), got ", x.dim(), " dimensions");
    STD_TORCH_CHECK(up == 1 || up == 2, "upsample must be 1 or 2, got ", up);
    const int64_t c = x.size(1);
    STD_TORCH_CHECK(groups == 0 || (groups > 0 && c % groups == 0), "groups must divide the channels, got ",
                    groups, " for C = ", c);
    return {x.size(0), c, x.size(2), x.size(3), up, groups, channels_last(x), dtype(x), eps, slope};
  }

  static DType dtype(const Tensor& x) {
    switch (x.scalar_type()) {
      case ScalarType::Float: return DType::f32;
      case ScalarType::Double: return DType::f64;
      case ScalarType::Half: return DType::f16;
      case ScalarType::BFloat16: return DType::bf16;
      default: STD_TORCH_CHECK(false, "x must be float32, float64, float16 or bfloat16");
    }
    return DType::f32;
  }

  static ScalarType parameter_type(const Problem& p) {
    return p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  }

  // Of a tensor that is contiguous, as all but maps are made by `dense` first.
  static const void* checked(const char* name, const Tensor& t, const Tensor& x, ScalarType type,
                             std::initializer_list<int64_t> shape) {
    STD_TORCH_CHECK(t.get_device_index() == x.get_device_index() && t.is_cpu() == x.is_cpu(), name,
                    " must be on the device of x");
    STD_TORCH_CHECK(t.scalar_type() == type, name, " has the wrong dtype");
    bool same = t.dim() == int64_t(shape.size());
    int64_t i = 0;
    for (int64_t side : shape) same = same && t.size(i++) == side;
    STD_TORCH_CHECK(same, name, " has the wrong shape for this x");
    return t.const_data_ptr();
  }

  static const void* checked_mask(const std::optional<Tensor>& mask, const Tensor& x, const Problem& p) {
    if (!mask) return nullptr;
    return checked("mask", *mask, x, parameter_type(p), {p.n, 1, p.up * p.h, p.up * p.w});
  }

  // Contiguous or, of four dimensions, channels last. By torch's C functions: calling an op of its by name costs a
  // lookup each time, which shows on small maps.
  static Tensor allocate(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type,
                         bool last = false) {
    const int64_t* size = shape.begin();
    int64_t strides[4], step = 1;
    for (size_t i = shape.size(); i-- > 0; step *= size[i] ? size[i] : 1) strides[i] = step;
    if (last) {
      strides[1] = 1;
      strides[3] = size[1];
      strides[2] = size[1] * size[3];
      strides[0] = strides[2] * size[2];
    }
    int32_t device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
    const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    AtenTensorHandle made;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), size, strides, dtype, device,
                                                    like.get_device_index(), &made));
    return Tensor(made);
  }

  // A map in the layout of x.
  static Tensor allocate_map(const Tensor& x, const Problem& p, int64_t up) {
    return allocate(x, {p.n, p.c, up * p.h, up * p.w}, x.scalar_type(), p.channels_last);
  }

  static Tensor scratch(const Tensor& x, const Problem& p) {
    return allocate(x, {Backend::scratch_bytes(p)}, ScalarType::Byte);
  }

  static std::tuple<Tensor, Tensor> statistics(const Tensor& given, int64_t groups) {
    const Problem p = problem(given, groups, 0, 1, 1);
    const Tensor x = dense(given, p.channels_last);
    Tensor mean = allocate(x, {p.statistics()}, ScalarType::Double);
    Tensor var = allocate(x, {p.statistics()}, ScalarType::Double);
    const Tensor memory = scratch(x, p);
    Backend::statistics(p, x.const_data_ptr(), mean.mutable_data_ptr<double>(), var.mutable_data_ptr<double>(),
                        memory.mutable_data_ptr(), x.get_device_index());
    return {mean, var};
  }

  static std::tuple<Tensor, Tensor, Tensor> forward(
      const Tensor& given, const Tensor& gamma_in, const Tensor& beta_in, const std::optional<Tensor>& mask_in,
      const std::optional<Tensor>& mean_in, const std::optional<Tensor>& var_in, int64_t groups, double eps,
      double slope, int64_t up) {
    const Problem p = problem(given, groups, eps, slope, up);
    const Tensor x = dense(given, p.channels_last);
    const Tensor gamma = dense(gamma_in, false), beta = dense(beta_in, false);
    const std::optional<Tensor> mask = dense(mask_in);
    STD_TORCH_CHECK(mean_in.has_value() == var_in.has_value(), "mean and var come together");
    Tensor y = allocate_map(x, p, up);
    // An op never returns its input, so given statistics are copied.
    const int64_t k = p.statistics();
    Tensor mean = mean_in ? torch::stable::clone(dense(*mean_in, false)) : allocate(x, {k}, ScalarType::Double);
    Tensor var = var_in ? torch::stable::clone(dense(*var_in, false)) : allocate(x, {k}, ScalarType::Double);
    checked("mean", mean, x, ScalarType::Double, {k});
    checked("var", var, x, ScalarType::Double, {k});
    const ScalarType type = parameter_type(p);
    const Forward f{x.const_data_ptr(),
                    checked("gamma", gamma, x, type, {p.n, p.c}),
                    checked("beta", beta, x, type, {p.n, p.c}),
                    checked_mask(mask, x, p),
                    mean_in.has_value(),
                    mean.mutable_data_ptr<double>(),
                    var.mutable_data_ptr<double>(),
                    y.mutable_data_ptr()};
    const Tensor memory = scratch(x, p);
    Backend::forward(p, f, memory.mutable_data_ptr(), x.get_device_index());
    return {y, mean, var};
  }

  // All three backward ops. Gradients that were not asked for come back empty.
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run_backward(
      const Tensor& dy_in, const Tensor& given, const Tensor& gamma_in, const Tensor& beta_in,
      const std::optional<Tensor>& mask_in, const Tensor& mean_in, const Tensor& var_in,
      const std::optional<Tensor>& k_in, int64_t groups, double eps, double slope, int64_t up, bool reduce,
      bool input, bool need_dmask, bool constant) {
    const Problem p = problem(given, groups, eps, slope, up);
    const Tensor x = dense(given, p.channels_last);
    // The layout is that of x: dy comes in any, and reading it as x's without looking would be wrong.
    const Tensor dy = dense(dy_in, p.channels_last);
    const Tensor gamma = dense(gamma_in, false), beta = dense(beta_in, false);
    const Tensor mean = dense(mean_in, false), var = dense(var_in, false);
    const std::optional<Tensor> mask = dense(mask_in);
    STD_TORCH_CHECK(dy.scalar_type() == x.scalar_type(), "dy must have the dtype of x");
    STD_TORCH_CHECK(dy.dim() == 4 && dy.size(0) == p.n && dy.size(1) == p.c && dy.size(2) == up * p.h &&
                        dy.size(3) == up * p.w && dy.is_cpu() == x.is_cpu() &&
                        dy.get_device_index() == x.get_device_index(),
                    "dy must have the shape and device of y");
    const ScalarType type = parameter_type(p);
    const int64_t k = p.statistics();
    need_dmask = need_dmask && reduce && mask.has_value();
    Tensor dgamma = reduce ? allocate(x, {p.n, p.c}, type) : allocate(x, {0}, type);
    Tensor dbeta = reduce ? allocate(x, {p.n, p.c}, type) : allocate(x, {0}, type);
    Tensor dmask = need_dmask ? allocate(x, {p.n, 1, up * p.h, up * p.w}, type) : allocate(x, {0}, type);
    Tensor dx = input ? allocate_map(x, p, 1) : allocate(x, {0}, x.scalar_type());
    Tensor sums = k_in ? dense(*k_in, false) : allocate(x, {2, k}, ScalarType::Double);
    if (k_in) checked("k", sums, x, ScalarType::Double, {2, k});
    const Backward b{dy.const_data_ptr(),
                     x.const_data_ptr(),
                     checked("gamma", gamma, x, type, {p.n, p.c}),
                     checked("beta", beta, x, type, {p.n, p.c}),
                     checked_mask(mask, x, p),
                     static_cast<const double*>(checked("mean", mean, x, ScalarType::Double, {k})),
                     static_cast<const double*>(checked("var", var, x, ScalarType::Double, {k})),
                     reduce,
                     input,
                     constant,
                     sums.mutable_data_ptr<double>(),
                     dgamma.mutable_data_ptr(),
                     dbeta.mutable_data_ptr(),
                     need_dmask ? dmask.mutable_data_ptr() : nullptr,
                     dx.mutable_data_ptr()};
    const Tensor memory = scratch(x, p);
    Backend::backward(p, b, memory.mutable_data_ptr(), x.get_device_index());
    return {dx, dgamma, dbeta, dmask, sums};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
      const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
      const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& var, int64_t groups, double eps,
      double slope, int64_t up, bool constant, bool need_dx, bool need_parameters, bool need_dmask) {
    // Statistics that depend on x need the sums for dx.
    const bool reduce = need_parameters || need_dmask || (need_dx && !constant);
    auto [dx, dgamma, dbeta, dmask, sums] = run_backward(dy, x, gamma, beta, mask, mean, var, std::nullopt,
                                                         groups, eps, slope, up, reduce, need_dx, need_dmask,
                                                         constant);
    return {dx, dgamma, dbeta, dmask};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward_sums(
      const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
      const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& var, int64_t groups, double eps,
      double slope, int64_t up, bool need_dmask) {
    auto [dx, dgamma, dbeta, dmask, sums] =
        run_backward(dy, x, gamma, beta, mask, mean, var, std::nullopt, groups, eps, slope, up, true, false,
                     need_dmask, false);
    return {sums, dgamma, dbeta, dmask};
  }

  static Tensor backward_input(const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                               const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& var,
                               const Tensor& k, int64_t groups, double eps, double slope, int64_t up) {
    return std::get<0>(run_backward(dy, x, gamma, beta, mask, mean, var, k, groups, eps, slope, up, false, true,
                                    false, false));
  }
};

// Inside STABLE_TORCH_LIBRARY_IMPL(t2ilayers, ..., m).
#define T2ILAYERS_IMPLEMENT(m, Backend)                                                           \
  m.impl("masked_affine_norm_statistics", TORCH_BOX(&t2ilayers::Ops<Backend>::statistics));         \
  m.impl("masked_affine_norm_forward", TORCH_BOX(&t2ilayers::Ops<Backend>::forward));               \
  m.impl("masked_affine_norm_backward", TORCH_BOX(&t2ilayers::Ops<Backend>::backward));             \
  m.impl("masked_affine_norm_backward_sums", TORCH_BOX(&t2ilayers::Ops<Backend>::backward_sums));   \
  m.impl("masked_affine_norm_backward_input", TORCH_BOX(&t2ilayers::Ops<Backend>::backward_input))

}  // namespace t2ilayers
