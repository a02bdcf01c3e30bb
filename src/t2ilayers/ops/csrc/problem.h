// What one call of the op is, in plain C++: shared by the CPU and CUDA kernels, free of torch.
#pragma once
#include <cstdint>

namespace t2ilayers {

enum class DType { f32, f64, f16, bf16 };

// Feature maps are (n, c, h, w) or, channels last, (n, h, w, c); y and dy are `up` times as high and wide.
// Statistics are double, one for each channel (groups == 0) or each group of a sample's channels; parameters,
// masks and their gradients are double for double feature maps and float otherwise.
struct Problem {
  int64_t n, c, h, w;
  int64_t up;      // 1, or 2 for a nearest-neighbour upsampling before the op
  int64_t groups;  // 0: statistics over (n, h, w); otherwise over a sample's c / groups channels
  bool channels_last;
  DType dtype;
  double eps;
  double slope;  // act(z) = z > 0 ? z : slope * z, so 1 is none and 0 is relu

  int64_t pixels() const { return h * w; }
  int64_t out_pixels() const { return pixels() * up * up; }
  int64_t statistics() const { return groups ? n * groups : c; }
  // Values of x behind one statistic. Upsampling repeats each the same number of times.
  int64_t count() const { return groups ? (c / groups) * pixels() : n * pixels(); }
};

struct Forward {
  const void* x;
  const void* gamma;  // (n, c)
  const void* beta;   // (n, c)
  const void* mask;   // (n, up h, up w), or null for ones
  bool given;         // mean and var are inputs; otherwise they are computed from x
  double* mean;       // (statistics)
  double* var;        // (statistics), biased
  void* y;
};

// The sums over a sample's pixels, of dz = dy act'(z) and a = 1 + gamma m, are dbeta = sum dz m,
// dgamma = sum dz m xhat and, for the statistics, s1 = sum dz a and s2 = sum dz a xhat. With k = sums / count,
//   dx = rstd (sum over the pixel's up * up copies of dz a - k1 - xhat k2).
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
  bool constant;    // the statistics do not depend on x, so k = 0
  double* sums;     // (2, statistics): s1 and s2 out, or k1 and k2 in
  void* dgamma;     // (n, c)
  void* dbeta;      // (n, c)
  void* dmask;      // (n, up h, up w) or null
  void* dx;
};

}  // namespace t2ilayers
