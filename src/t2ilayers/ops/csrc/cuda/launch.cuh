// Which kernels one call runs, and in which order.
#pragma once
#include "plan.cuh"

namespace t2ilayers {
namespace gpu {

// visit(plan) of the problem's upsampling and activation, and of the width that the pointers allow.
template <class S, class Visit>
auto planned(const Problem& p, std::initializer_list<const void*> pointers, Visit visit) {
  const auto with_act = [&](auto up, auto wide) {
    return p.activation == Activation::silu ? visit(Plan<S, up(), wide(), true>(p))
                                            : visit(Plan<S, up(), wide(), false>(p));
  };
  const auto with_width = [&](auto up) {
    return whole(p) && aligned(pointers) ? with_act(up, std::true_type{}) : with_act(up, std::false_type{});
  };
  return p.up == 1 ? with_width(std::integral_constant<int, 1>{}) : with_width(std::integral_constant<int, 2>{});
}

// For statistics, which know neither upsampling nor activation.
template <class S, class Visit>
auto planned_statistics(Problem p, const void* x, Visit visit) {
  p.up = 1;
  return whole(p) && aligned({x}) ? visit(Plan<S, 1, true, false>(p)) : visit(Plan<S, 1, false, false>(p));
}

// As `planned`, of parameters that are maps.
template <class S, class Visit>
auto planned_maps(const Problem& p, const Backward& b, Visit visit) {
  return planned<S>(p, {b.dy, b.x, b.gamma, b.beta, b.dgamma, b.dbeta, b.dx}, visit);
}

// Where statistics are constant, all gradients in one pass.
template <class S>
void maps_backward(const Problem& p, const Backward& b, void* scratch, Stream stream) {
  planned_maps<S>(p, b, [&](const auto& plan) {
    Shape g = plan.shape();
    Inputs in{b.dy, b.x, nullptr, nullptr, nullptr, b.mean, b.var, nullptr};
    MapsPass a{};
    a.gamma = b.gamma, a.beta = b.beta;
    if (b.reduce) {
      a.dgamma = b.dgamma, a.dbeta = b.dbeta;
      if (p.normalized()) a.partial = static_cast<float4*>(scratch);
      if (b.constant && b.input) a.dx = b.dx;
      plan.template maps<true>(g, in, a, stream);
      Finish f{};
      plan.share(f, b);
      f.partial = a.partial, f.parts = plan.empty ? 0 : plan.row_parts();
      if (p.normalized()) finish(g, f, stream);
    }
    if (!b.input || a.dx) return;
    if (!b.reduce) g.scale = 1;  // sums are divided already
    if (!b.constant) in.sums = b.sums;
    a.dgamma = a.dbeta = nullptr, a.partial = nullptr, a.dx = b.dx;
    plan.template maps<true>(g, in, a, stream);
  });
}

template <class S>
int64_t Calls<S>::scratch_bytes(const Problem& p, const void* x) {
  return planned_statistics<S>(p, x, [](const auto& plan) { return plan.statistics_bytes(); });
}
template <class S>
int64_t Calls<S>::scratch_bytes(const Problem& p, const Forward& f) {
  return f.given ? 0 : scratch_bytes(p, f.x);
}
template <class S>
int64_t Calls<S>::scratch_bytes(const Problem& p, const Backward& b) {
  if (!b.reduce) return 0;
  if (p.maps) return planned_maps<S>(p, b, [](const auto& plan) { return plan.maps_bytes(); });
  return planned<S>(p, {b.dy, b.x, b.mask, b.dx}, [&](const auto& plan) { return plan.reduce_bytes(b.dmask); });
}

template <class S>
void Calls<S>::statistics(const Problem& p, const void* x, const Results& results, void* scratch, Stream stream) {
  planned_statistics<S>(p, x, [&](const auto& plan) { plan.statistics(x, results, scratch, stream); });
}

template <class S>
void Calls<S>::forward(const Problem& p, const Forward& f, void* scratch, Stream stream) {
  if (!f.given) statistics(p, f.x, {f.mean, f.var, f.running}, scratch, stream);
  if (p.maps)
    return planned<S>(p, {f.x, f.gamma, f.beta, f.y}, [&](const auto& plan) {
      const Inputs in{nullptr, f.x, nullptr, nullptr, nullptr, f.mean, f.var, nullptr};
      MapsPass a{};
      a.gamma = f.gamma, a.beta = f.beta, a.y = f.y;
      plan.template maps<false>(plan.shape(), in, a, stream);
    });
  planned<S>(p, {f.x, f.mask, f.y}, [&](const auto& plan) {
    const Inputs in{nullptr, f.x, f.gamma, f.beta, f.mask, f.mean, f.var, nullptr};
    plan.template apply<false>(plan.shape(), in, f.y, stream);
  });
}

template <class S>
void Calls<S>::backward(const Problem& p, const Backward& b, void* scratch, Stream stream) {
  if (p.maps) return maps_backward<S>(p, b, scratch, stream);
  planned<S>(p, {b.dy, b.x, b.mask, b.dx}, [&](const auto& plan) {
    Shape g = plan.shape();
    Inputs in{b.dy, b.x, b.gamma, b.beta, b.mask, b.mean, b.var, nullptr};
    const bool at_once = b.reduce && b.input && b.constant;
    if (b.reduce) plan.reduce(g, in, b, at_once ? b.dx : nullptr, scratch, stream);
    if (!b.input || at_once) return;
    if (!b.reduce) g.scale = 1;  // sums are divided already
    if (!b.constant) in.sums = b.sums;
    plan.template apply<true>(g, in, b.dx, stream);
  });
}

// One pair is the op without statistics and mask.
inline Forward single(const Chain& a) {
  Forward f{};
  f.x = a.x, f.gamma = a.gamma, f.beta = a.beta, f.given = true, f.y = a.y;
  return f;
}
inline Backward single(const ChainBackward& a) {
  Backward b{};
  b.dy = a.dy, b.x = a.x, b.gamma = a.gamma, b.beta = a.beta;
  b.reduce = a.dgamma, b.input = a.dx, b.constant = true;
  b.dgamma = a.dgamma, b.dbeta = a.dbeta, b.dx = a.dx;
  return b;
}

template <class S>
int64_t Calls<S>::scratch_bytes(const Problem& p, const ChainBackward& a) {
  if (a.pairs == 1) return scratch_bytes(p, single(a));
  if (!a.dgamma) return 0;
  return planned<S>(p, {a.dy, a.x, a.dx}, [&](const auto& plan) { return plan.chain_bytes(a.pairs); });
}

template <class S>
void Calls<S>::chain(const Problem& p, const Chain& a, Stream stream) {
  if (a.pairs == 1) return forward(p, single(a), nullptr, stream);
  planned<S>(p, {a.x, a.y}, [&](const auto& plan) {
    ChainPass pass = plan.chain_pass(a.pairs, a.x, a.gamma, a.beta);
    pass.to = a.y;
    plan.template chain<false>(plan.shape(), pass, stream);
  });
}

template <class S>
void Calls<S>::chain(const Problem& p, const ChainBackward& a, void* scratch, Stream stream) {
  if (a.pairs == 1) return backward(p, single(a), scratch, stream);
  planned<S>(p, {a.dy, a.x, a.dx}, [&](const auto& plan) {
    const Shape g = plan.shape();
    ChainPass pass = plan.chain_pass(a.pairs, a.x, a.gamma, a.beta);
    pass.dy = a.dy, pass.to = a.dx;
    if (a.dgamma) pass.partial = static_cast<float*>(scratch);
    plan.template chain<true>(g, pass, stream);
    if (!a.dgamma) return;
    const int64_t rows = p.n * p.c;
    finish(g, {pass.partial, plan.empty ? 0 : plan.row_parts(), rows, a.pairs, a.dgamma, a.dbeta}, stream);
  });
}

}  // namespace gpu
}  // namespace t2ilayers
