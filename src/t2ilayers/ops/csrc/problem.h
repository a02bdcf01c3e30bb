// What one call of an op is, in plain C++: shared by the CPU and CUDA kernels, free of torch.
#pragma once
#include <cstdint>

namespace t2ilayers {

enum class DType { f32, f64, f16, bf16 };

// leaky: act(z) = z > 0 ? z : slope * z, and none where slope is 1; relu: torch's, which is not leaky with slope 0 at
// NaN and inf; silu: z sigmoid(z).
enum class Activation { leaky, relu, silu };

// Feature maps are (n, c, h, w) or, channels last, (n, h, w, c); y and dy are `up` times as high and wide.
// Parameters are (n, c) or, with `maps`, maps as large as y in the layout of x, and then there is no mask.
// The mask is (n, up h, up w). Statistics are double. Gradients have the dtype of what they are the gradient of.
struct Problem {
  int64_t n, c, h, w;
  int64_t up;      // 1, or 2 for a nearest-neighbour upsampling before the op
  int64_t groups;  // 0: statistics over (n, h, w); positive: over a sample's c / groups channels; -1: none, xhat = x
  bool channels_last;
  bool maps;
  bool absolute;  // scale by 1 - m + gamma m instead of 1 + gamma m
  Activation activation;
  DType dtype;  // of feature maps
  DType gamma_dtype, beta_dtype, mask_dtype;  // of what is not there, that of the arithmetic
  double eps;
  double slope;

  int64_t pixels() const { return h * w; }
  int64_t out_pixels() const { return pixels() * up * up; }
  bool normalized() const { return groups >= 0; }
  int64_t statistics() const { return groups < 0 ? 0 : groups ? n * groups : c; }
  // Values of x behind one statistic. Upsampling repeats each the same number of times.
  int64_t count() const { return groups > 0 ? (c / groups) * pixels() : n * pixels(); }
};

// Running statistics, which whoever finishes those of a batch moves towards them:
//   running = (1 - momentum) running + momentum batch,
// with the unbiased variance of count * repeats values. Null where there are none.
struct Running {
  void* mean;  // (c)
  void* var;
  DType dtype;
  double momentum;
  int64_t repeats;
};

// z = a xhat + b with a = 1 + gamma m or, absolute, 1 - m + gamma m, and b = beta m.
struct Forward {
  const void* x;
  const void* gamma;
  const void* beta;
  const void* mask;  // null for ones
  bool given;        // mean and var are inputs; otherwise they are computed from x
  double* mean;      // (statistics)
  double* var;       // (statistics), biased
  Running running;
  void* y;
};

// The sums over a sample's pixels, of dz = dy act'(z), are dbeta = sum dz m, dgamma = sum dz m xhat and, for the
// statistics, s1 = sum dz a and s2 = sum dz a xhat. With k = sums / count,
//   dx = rstd (sum over the pixel's up * up copies of dz a - k1 - xhat k2).
// Of parameters that are maps, dbeta = dz and dgamma = dz xhat.
struct Backward {
  const void* dy;
  const void* x;
  const void* gamma;
  const void* beta;
  const void* mask;
  const double* mean;
  const double* var;
  // Which passes to run. `input` alone takes k from `sums`; with `reduce` it divides its own sums by count.
  bool reduce;      // dgamma, dbeta, sums and, unless null, dmask
  bool input;       // dx
  bool constant;    // the statistics do not depend on x, or there are none, so dx = rstd dz a
  double* sums;     // (2, statistics): s1 and s2 out, or k1 and k2 in
  void* dgamma;     // as gamma
  void* dbeta;      // as beta
  void* dmask;      // as mask, or null
  void* dx;
};

// What scratch memory is for.
enum class Pass { statistics, forward, backward, chain, chain_backward };

constexpr int64_t kMostPairs = 3;

// y = x_pairs, where x_0 = x, upsampled, and x_(p+1) = act(gamma_p x_p + beta_p). Of the problem, groups is -1.
struct Chain {
  int64_t pairs;  // 1 to kMostPairs
  const void* x;
  const void* gamma;  // (pairs, n, c)
  const void* beta;
  void* y;
};

struct ChainBackward {
  int64_t pairs;
  const void* dy;
  const void* x;
  const void* gamma;
  const void* beta;
  void* dgamma;  // (pairs, n, c), or null with dbeta
  void* dbeta;
  void* dx;  // or null
};

}  // namespace t2ilayers
