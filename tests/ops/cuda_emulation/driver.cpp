// The CUDA kernels and their launches as C functions, run by the emulation. Each returns an error or null.
#include "runtime.h"

#include "../../../src/t2ilayers/ops/csrc/cuda/finish.cuh"
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
  const int64_t sizes[] = {sizeof(Problem), sizeof(Forward), sizeof(Backward),
                           sizeof(Chain),   sizeof(ChainBackward)};
  return sizes[which];
}

// Buffers that later calls may load from, until `clear_buffers`.
void add_buffer(const char* begin, int64_t size) { emulation::readable.emplace_back(begin, begin + size); }
void clear_buffers() { emulation::readable.clear(); }

int64_t forward_bytes(const Problem* p, const Forward* f) {
  return gpu::typed(*p, [&](auto calls) { return calls.scratch_bytes(*p, *f); });
}
int64_t backward_bytes(const Problem* p, const Backward* b) {
  return gpu::typed(*p, [&](auto calls) { return calls.scratch_bytes(*p, *b); });
}

const char* forward(const Problem* p, const Forward* f, void* scratch, int order) {
  return caught([&] { gpu::typed(*p, [&](auto calls) { calls.forward(*p, *f, scratch, order); }); });
}

const char* backward(const Problem* p, const Backward* b, void* scratch, int order) {
  return caught([&] { gpu::typed(*p, [&](auto calls) { calls.backward(*p, *b, scratch, order); }); });
}

int64_t chain_backward_bytes(const Problem* p, const ChainBackward* a) {
  return gpu::typed(*p, [&](auto calls) { return calls.scratch_bytes(*p, *a); });
}

const char* chain(const Problem* p, const Chain* a, int order) {
  return caught([&] { gpu::typed(*p, [&](auto calls) { calls.chain(*p, *a, order); }); });
}

const char* chain_backward(const Problem* p, const ChainBackward* a, void* scratch, int order) {
  return caught([&] { gpu::typed(*p, [&](auto calls) { calls.chain(*p, *a, scratch, order); }); });
}

}
