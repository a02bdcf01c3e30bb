// The CUDA kernels and their launches as C functions, run by the emulation. Each returns an error or null.
#include "runtime.h"

#include "../../../src/t2ilayers/ops/csrc/cuda/launch.cuh"

using namespace t2ilayers;

template <class Run>
const char* caught(Run run) {
  static std::string message;
  emulation::failure = nullptr;
  try {
    run();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

extern "C" {

int64_t size_of(int which) {
  const int64_t sizes[] = {sizeof(Problem), sizeof(Forward), sizeof(Backward)};
  return sizes[which];
}

// Buffers that later calls may load from, until `clear_buffers`.
void add_buffer(const char* begin, int64_t size) { emulation::readable.emplace_back(begin, begin + size); }
void clear_buffers() { emulation::readable.clear(); }

int64_t scratch_bytes(const Problem* p) { return gpu::scratch_bytes(*p); }

const char* statistics(const Problem* p, const void* x, double* mean, double* var, void* scratch, int order) {
  return caught([&] { gpu::statistics(*p, x, mean, var, scratch, order); });
}

const char* forward(const Problem* p, const Forward* f, void* scratch, int order) {
  return caught([&] { gpu::forward(*p, *f, scratch, order); });
}

const char* backward(const Problem* p, const Backward* b, void* scratch, int order) {
  return caught([&] { gpu::backward(*p, *b, scratch, order); });
}

}
