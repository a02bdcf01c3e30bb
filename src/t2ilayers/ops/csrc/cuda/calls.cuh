// The calls that are compiled for each type of feature maps in a file of its own (float32.cu and so on): they are
// many kernels, which compilers can then make side by side.
#pragma once
#include "passes.cuh"

namespace t2ilayers {
namespace gpu {

// `Stream` is whatever kernels are launched on. Nothing here allocates or waits, and grids depend on the shape
// alone: results are the same bits on every GPU.
template <class S>
struct Calls {
  static int64_t scratch_bytes(const Problem&, const void* x);
  static int64_t scratch_bytes(const Problem&, const Forward&);
  static int64_t scratch_bytes(const Problem&, const Backward&);
  static int64_t scratch_bytes(const Problem&, const Chain&) { return 0; }
  static int64_t scratch_bytes(const Problem&, const ChainBackward&);
  static void statistics(const Problem&, const void* x, const Results&, void* scratch, Stream);
  static void forward(const Problem&, const Forward&, void* scratch, Stream);
  static void backward(const Problem&, const Backward&, void* scratch, Stream);
  static void chain(const Problem&, const Chain&, Stream);
  static void chain(const Problem&, const ChainBackward&, void* scratch, Stream);
};

// visit(Calls of the type of the problem's maps)
template <class Visit>
auto typed(const Problem& p, Visit visit) {
  switch (p.dtype) {
    case DType::f16: return visit(Calls<Half>{});
    case DType::bf16: return visit(Calls<BFloat16>{});
    default: return visit(Calls<float>{});
  }
}

}  // namespace gpu
}  // namespace t2ilayers
