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

// How to compute: the last arguments of every op, in this order.
struct Options {
  int64_t groups;
  double eps, slope;
  bool silu, absolute;
  int64_t up;
};

// TORCH_BOX knows scalars only: f, with its options spread out.
template <auto f>
struct Spread;
template <class R, class... A, R (*f)(const Options&, A...)>
struct Spread<f> {
  static R call(A... a, int64_t groups, double eps, double slope, bool silu, bool absolute, int64_t up) {
    return f({groups, eps, slope, silu, absolute, up}, a...);
  }
};

// A Backend provides, for one kind of device,
//   static const char* lacks(const Problem&);      // what of it the kernels cannot do, or null
//   static int64_t scratch_bytes(const Problem&, call);  // of each call below: x, Forward, Backward and so on
//   static void statistics(const Problem&, const void* x, double* mean, double* var, void* scratch, int device);
//   static void forward(const Problem&, const Forward&, void* scratch, int device);
//   static void backward(const Problem&, const Backward&, void* scratch, int device);
//   static void chain(const Problem&, const Chain&, void* scratch, int device);
//   static void chain_backward(const Problem&, const ChainBackward&, void* scratch, int device);
template <class Backend>
struct Ops {
  // --- Tensors

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

  static DType dtype(const char* name, const Tensor& x) {
    switch (x.scalar_type()) {
      case ScalarType::Float: return DType::f32;
      case ScalarType::Double: return DType::f64;
      case ScalarType::Half: return DType::f16;
      case ScalarType::BFloat16: return DType::bf16;
      default: STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
    }
    return DType::f32;
  }

  static void check(const char* name, const Tensor& t, const Tensor& x, std::initializer_list<int64_t> shape) {
    STD_TORCH_CHECK(t.get_device_index() == x.get_device_index() && t.is_cpu() == x.is_cpu(), name,
                    " must be on the device of x");
    bool same = t.dim() == int64_t(shape.size());
    int64_t i = 0;
    for (int64_t side : shape) same = same && t.size(i++) == side;
    STD_TORCH_CHECK(same, name, " has the wrong shape for this x");
  }

  // Statistics and sums: contiguous doubles.
  static Tensor doubles(const char* name, const Tensor& t, const Tensor& x, std::initializer_list<int64_t> shape) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Double, name, " must be float64");
    check(name, t, x, shape);
    return dense(t, false);
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

  static Tensor nothing(const Tensor& like) { return allocate(like, {0}, like.scalar_type()); }

  // --- What all ops but `statistics` start from

  static Problem problem(const Tensor& x, const Options& o) {
    STD_TORCH_CHECK(x.dim() == 4, "x must be (N, C, H, W), got ", x.dim(), " dimensions");
    STD_TORCH_CHECK(o.up == 1 || o.up == 2, "upsample must be 1 or 2, got ", o.up);
    const int64_t c = x.size(1);
    STD_TORCH_CHECK(o.groups >= -1 && (o.groups <= 0 || c % o.groups == 0),
                    "groups must divide the channels, or be 0 for batch statistics or -1 for none, got ", o.groups,
                    " for C = ", c);
    Problem p{};
    p.n = x.size(0), p.c = c, p.h = x.size(2), p.w = x.size(3);
    p.up = o.up;
    p.groups = o.groups;
    p.channels_last = channels_last(x);
    p.absolute = o.absolute;
    p.activation = o.silu ? Activation::silu : o.slope == 0 ? Activation::relu : Activation::leaky;
    p.dtype = dtype("x", x);
    p.gamma_dtype = p.beta_dtype = p.mask_dtype = p.dtype == DType::f64 ? DType::f64 : DType::f32;
    p.eps = o.eps;
    p.slope = o.slope;
    return p;
  }

  // A map, its parameters and its mask, dense and checked, and the problem that they make.
  struct Inputs {
    Problem p;
    Tensor x, gamma, beta;
    std::optional<Tensor> mask;

    Inputs(const Options& o, const Tensor& x_in, const Tensor& gamma_in, const Tensor& beta_in,
           const std::optional<Tensor>& mask_in)
        : p(problem(x_in, o)), x(dense(x_in, p.channels_last)), gamma(gamma_in), beta(beta_in) {
      p.maps = gamma.dim() == 4;
      p.gamma_dtype = dtype("gamma", gamma), p.beta_dtype = dtype("beta", beta);
      parameter("gamma", gamma);
      parameter("beta", beta);
      if (mask_in) {
        STD_TORCH_CHECK(!p.maps, "a mask goes with gamma and beta of (N, C), not with maps");
        p.mask_dtype = dtype("mask", *mask_in);
        check("mask", *mask_in, x, {p.n, 1, p.up * p.h, p.up * p.w});
        mask = dense(*mask_in, false);
      }
      refuse(p);
    }

    const void* mask_data() const { return mask ? mask->const_data_ptr() : nullptr; }

    // A map in the layout of x.
    Tensor allocate_map(int64_t up, ScalarType type) const {
      return allocate(x, {p.n, p.c, up * p.h, up * p.w}, type, p.channels_last);
    }
    // A gradient of gamma or beta.
    Tensor allocate_like(const Tensor& parameter) const {
      if (p.maps) return allocate_map(p.up, parameter.scalar_type());
      return allocate(x, {p.n, p.c}, parameter.scalar_type());
    }

   private:
    void parameter(const char* name, Tensor& t) {
      if (p.maps)
        check(name, t, x, {p.n, p.c, p.up * p.h, p.up * p.w});
      else
        check(name, t, x, {p.n, p.c});
      t = dense(t, p.maps && p.channels_last);
    }
  };

  static void refuse(const Problem& p) {
    const char* missing = Backend::lacks(p);
    STD_TORCH_CHECK(missing == nullptr, "these native kernels do not have ", missing ? missing : "");
  }

  template <class Call>
  static Tensor scratch(const Tensor& x, const Problem& p, const Call& call) {
    return allocate(x, {Backend::scratch_bytes(p, call)}, ScalarType::Byte);
  }

  // --- The ops

  static std::tuple<Tensor, Tensor> statistics(const Tensor& given, int64_t groups) {
    const Problem p = problem(given, {groups, 0, 1, false, false, 1});
    refuse(p);
    const Tensor x = dense(given, p.channels_last);
    Tensor mean = allocate(x, {p.statistics()}, ScalarType::Double);
    Tensor var = allocate(x, {p.statistics()}, ScalarType::Double);
    const Tensor memory = scratch(x, p, x.const_data_ptr());
    Backend::statistics(p, x.const_data_ptr(), mean.mutable_data_ptr<double>(), var.mutable_data_ptr<double>(),
                        memory.mutable_data_ptr(), x.get_device_index());
    return {mean, var};
  }

  static std::tuple<Tensor, Tensor, Tensor> forward(
      const Options& o, const Tensor& x, const Tensor& gamma, const Tensor& beta, const std::optional<Tensor>& mask,
      const std::optional<Tensor>& mean_in, const std::optional<Tensor>& var_in) {
    const Inputs in(o, x, gamma, beta, mask);
    const int64_t k = in.p.statistics();
    STD_TORCH_CHECK(mean_in.has_value() == var_in.has_value(), "mean and var come together");
    if (!mean_in) return run_forward(in, allocate(x, {k}, ScalarType::Double), allocate(x, {k}, ScalarType::Double),
                                     !in.p.normalized(), {});
    // An op never returns its input, so given statistics are copied.
    return run_forward(in, torch::stable::clone(doubles("mean", *mean_in, x, {k})),
                       torch::stable::clone(doubles("var", *var_in, x, {k})), true, {});
  }

  static std::tuple<Tensor, Tensor, Tensor> forward_running(
      const Options& o, const Tensor& x, const Tensor& gamma, const Tensor& beta, const std::optional<Tensor>& mask,
      const Tensor& running_mean, const Tensor& running_var, double momentum, int64_t repeats) {
    const Inputs in(o, x, gamma, beta, mask);
    const int64_t c = in.p.c;
    STD_TORCH_CHECK(o.groups == 0, "running statistics go with batch statistics, groups = 0");
    const DType type = dtype("running_mean", running_mean);
    STD_TORCH_CHECK(dtype("running_var", running_var) == type, "running_mean and running_var must have one dtype");
    check("running_mean", running_mean, x, {c});
    check("running_var", running_var, x, {c});
    STD_TORCH_CHECK(running_mean.is_contiguous() && running_var.is_contiguous(),
                    "running statistics must be contiguous");
    const Running running{running_mean.mutable_data_ptr(), running_var.mutable_data_ptr(), type, momentum, repeats};
    return run_forward(in, allocate(x, {c}, ScalarType::Double), allocate(x, {c}, ScalarType::Double),
                       false, running);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
      const Options& o, const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
      const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& var, bool constant, bool need_dx,
      bool need_parameters, bool need_dmask) {
    const Inputs in(o, x, gamma, beta, mask);
    constant = constant || !in.p.normalized();
    // Statistics that depend on x need the sums for dx.
    const bool reduce = need_parameters || need_dmask || (need_dx && !constant);
    const Gradients g = run_backward(in, dy, mean, var, {reduce, need_dx, constant, need_dmask, std::nullopt});
    return {g.dx, g.dgamma, g.dbeta, g.dmask};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward_sums(
      const Options& o, const Tensor& dy, const Tensor& x, const Tensor& gamma, const Tensor& beta,
      const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& var, bool need_dmask) {
    const Inputs in(o, x, gamma, beta, mask);
    const Gradients g = run_backward(in, dy, mean, var, {true, false, false, need_dmask, std::nullopt});
    return {g.sums, g.dgamma, g.dbeta, g.dmask};
  }

  static Tensor backward_input(const Options& o, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                               const Tensor& beta, const std::optional<Tensor>& mask, const Tensor& mean,
                               const Tensor& var, const Tensor& k) {
    const Inputs in(o, x, gamma, beta, mask);
    const Tensor ratios = doubles("k", k, x, {2, in.p.statistics()});
    return run_backward(in, dy, mean, var, {false, true, false, false, ratios}).dx;
  }

  static Tensor chain(const Tensor& x, const Tensor& gammas, const Tensor& betas, double slope, bool silu,
                      int64_t up) {
    const ChainInputs in({-1, 0, slope, silu, true, up}, x, gammas, betas);
    const Problem& p = in.p;
    Tensor y = allocate(in.x, {p.n, p.c, up * p.h, up * p.w}, x.scalar_type(), p.channels_last);
    const Chain a{in.gammas.size(0), in.x.const_data_ptr(), in.gammas.const_data_ptr(), in.betas.const_data_ptr(),
                  y.mutable_data_ptr()};
    const Tensor memory = scratch(in.x, p, a);
    Backend::chain(p, a, memory.mutable_data_ptr(), x.get_device_index());
    return y;
  }

  static std::tuple<Tensor, Tensor, Tensor> chain_backward(const Tensor& dy_in, const Tensor& x,
                                                           const Tensor& gammas, const Tensor& betas, double slope,
                                                           bool silu, int64_t up, bool need_dx,
                                                           bool need_parameters) {
    const ChainInputs in({-1, 0, slope, silu, true, up}, x, gammas, betas);
    const Problem& p = in.p;
    const Tensor dy = gradient(dy_in, in.x, p);
    Tensor dx = nothing(x), dgammas = nothing(gammas), dbetas = nothing(betas);
    ChainBackward a{gammas.size(0), dy.const_data_ptr(), in.x.const_data_ptr(), in.gammas.const_data_ptr(),
                    in.betas.const_data_ptr(), nullptr, nullptr, nullptr};
    if (need_dx) {
      dx = allocate(x, {p.n, p.c, p.h, p.w}, x.scalar_type(), p.channels_last);
      a.dx = dx.mutable_data_ptr();
    }
    if (need_parameters) {
      dgammas = allocate(x, {a.pairs, p.n, p.c}, gammas.scalar_type());
      dbetas = allocate(x, {a.pairs, p.n, p.c}, betas.scalar_type());
      a.dgamma = dgammas.mutable_data_ptr(), a.dbeta = dbetas.mutable_data_ptr();
    }
    const Tensor memory = scratch(in.x, p, a);
    Backend::chain_backward(p, a, memory.mutable_data_ptr(), x.get_device_index());
    return {dx, dgammas, dbetas};
  }

 private:
  // The first three as in Backward.
  struct Wanted {
    bool reduce, input, constant, mask;
    std::optional<Tensor> k;  // without `reduce`
  };
  // What was not asked for is empty.
  struct Gradients {
    Tensor dx, dgamma, dbeta, dmask, sums;
  };

  static std::tuple<Tensor, Tensor, Tensor> run_forward(const Inputs& in, Tensor mean, Tensor var, bool given,
                                                        const Running& running) {
    Tensor y = in.allocate_map(in.p.up, in.x.scalar_type());
    const Forward f{in.x.const_data_ptr(), in.gamma.const_data_ptr(), in.beta.const_data_ptr(), in.mask_data(),
                    given, mean.mutable_data_ptr<double>(), var.mutable_data_ptr<double>(), running,
                    y.mutable_data_ptr()};
    const Tensor memory = scratch(in.x, in.p, f);
    Backend::forward(in.p, f, memory.mutable_data_ptr(), in.x.get_device_index());
    return {y, mean, var};
  }

  // dy, in the layout of x: it comes in any, and reading it as x's without looking would be wrong.
  static Tensor gradient(const Tensor& dy, const Tensor& x, const Problem& p) {
    STD_TORCH_CHECK(dy.scalar_type() == x.scalar_type(), "dy must have the dtype of x");
    STD_TORCH_CHECK(dy.dim() == 4 && dy.size(0) == p.n && dy.size(1) == p.c && dy.size(2) == p.up * p.h &&
                        dy.size(3) == p.up * p.w && dy.is_cpu() == x.is_cpu() &&
                        dy.get_device_index() == x.get_device_index(),
                    "dy must have the shape and device of y");
    return dense(dy, p.channels_last);
  }

  static Gradients run_backward(const Inputs& in, const Tensor& dy_in, const Tensor& mean_in, const Tensor& var_in,
                                const Wanted& want) {
    const Problem& p = in.p;
    const int64_t k = p.statistics();
    const Tensor dy = gradient(dy_in, in.x, p);
    const Tensor mean = doubles("mean", mean_in, in.x, {k}), var = doubles("var", var_in, in.x, {k});
    const bool masked = want.mask && want.reduce && in.mask;
    Gradients g{want.input ? in.allocate_map(1, in.x.scalar_type()) : nothing(in.x),
                want.reduce ? in.allocate_like(in.gamma) : nothing(in.gamma),
                want.reduce ? in.allocate_like(in.beta) : nothing(in.beta),
                masked ? allocate(in.x, {p.n, 1, p.up * p.h, p.up * p.w}, in.mask->scalar_type())
                       : nothing(in.mask ? *in.mask : in.gamma),
                want.k ? *want.k : allocate(in.x, {2, k}, ScalarType::Double)};
    const Backward b{dy.const_data_ptr(),
                     in.x.const_data_ptr(),
                     in.gamma.const_data_ptr(),
                     in.beta.const_data_ptr(),
                     in.mask_data(),
                     mean.const_data_ptr<double>(),
                     var.const_data_ptr<double>(),
                     want.reduce,
                     want.input,
                     want.constant,
                     g.sums.template mutable_data_ptr<double>(),
                     g.dgamma.mutable_data_ptr(),
                     g.dbeta.mutable_data_ptr(),
                     masked ? g.dmask.mutable_data_ptr() : nullptr,
                     g.dx.mutable_data_ptr()};
    const Tensor memory = scratch(in.x, p, b);
    Backend::backward(p, b, memory.mutable_data_ptr(), in.x.get_device_index());
    return g;
  }

  struct ChainInputs {
    Problem p;
    Tensor x, gammas, betas;

    ChainInputs(const Options& o, const Tensor& x_in, const Tensor& gammas_in, const Tensor& betas_in)
        : p(problem(x_in, o)),
          x(dense(x_in, p.channels_last)),
          gammas(dense(gammas_in, false)),
          betas(dense(betas_in, false)) {
      const int64_t pairs = gammas.dim() == 3 ? gammas.size(0) : 0;
      STD_TORCH_CHECK(pairs >= 1 && pairs <= kMostPairs, "gammas must be (P, N, C) with P from 1 to ", kMostPairs);
      p.gamma_dtype = dtype("gammas", gammas), p.beta_dtype = dtype("betas", betas);
      check("gammas", gammas, x, {pairs, p.n, p.c});
      check("betas", betas, x, {pairs, p.n, p.c});
      refuse(p);
    }
  };
};

// Inside STABLE_TORCH_LIBRARY_IMPL(t2ilayers, ..., m).
#define T2ILAYERS_SPREAD(Backend, op) TORCH_BOX((&t2ilayers::Spread<&t2ilayers::Ops<Backend>::op>::call))
#define T2ILAYERS_IMPLEMENT(m, Backend)                                                           \
  m.impl("masked_affine_norm_statistics", TORCH_BOX(&t2ilayers::Ops<Backend>::statistics));         \
  m.impl("masked_affine_norm_forward", T2ILAYERS_SPREAD(Backend, forward));                         \
  m.impl("masked_affine_norm_forward_running", T2ILAYERS_SPREAD(Backend, forward_running));         \
  m.impl("masked_affine_norm_backward", T2ILAYERS_SPREAD(Backend, backward));                       \
  m.impl("masked_affine_norm_backward_sums", T2ILAYERS_SPREAD(Backend, backward_sums));             \
  m.impl("masked_affine_norm_backward_input", T2ILAYERS_SPREAD(Backend, backward_input));           \
  m.impl("affine_chain_forward", TORCH_BOX(&t2ilayers::Ops<Backend>::chain));                       \
  m.impl("affine_chain_backward", TORCH_BOX(&t2ilayers::Ops<Backend>::chain_backward))

}  // namespace t2ilayers
