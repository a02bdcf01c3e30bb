// The CPU kernels, compiled once for each instruction set; free of torch, so each file compiles in seconds.
#pragma once
#include "../problem.h"

namespace t2ilayers {

// Runs task(begin, end, context) over parts of [0, tasks), on several threads.
using Parallel = void (*)(int64_t tasks, void (*task)(int64_t, int64_t, void*), void* context);

struct CpuKernels {
  const char* name;
  int64_t (*scratch_bytes)(const Problem&, Pass);
  void (*statistics)(const Problem&, const void* x, double* mean, double* var, void* scratch, Parallel,
                     int64_t threads);
  void (*forward)(const Problem&, const Forward&, void* scratch, Parallel, int64_t threads);
  void (*backward)(const Problem&, const Backward&, void* scratch, Parallel, int64_t threads);
  void (*chain)(const Problem&, const Chain&, Parallel);
  void (*chain_backward)(const Problem&, const ChainBackward&, void* scratch, Parallel);
};

extern const CpuKernels baseline, avx2, avx512;  // baseline alone takes float64

}  // namespace t2ilayers
