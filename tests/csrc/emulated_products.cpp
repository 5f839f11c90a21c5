// The CUDA kernels of indexed_products as a library for the host, which
// tests/ops/test_indexed_products_emulation.py calls. Build: g++ -shared -include cuda_emulation.h.
#include <string>

#include "cuda/indexed_products.cu"

using namespace torchrec_gr::cuda;

namespace {

std::string message;

// The message of what went wrong, or null.
template <class Run>
const char* run(Run body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

void set_schedule(int schedule, unsigned seed) {
  emulation::schedule = static_cast<emulation::Schedule>(schedule);
  emulation::draw.seed(seed);
}

const char* forward(const IndexedProducts* problem, float* products) {
  return run([&] { indexed_products(*problem, products, nullptr); });
}

const char* backward(const IndexedProducts* problem, const IndexedProductGradients* gradients) {
  return run([&] { indexed_products_backward(*problem, *gradients, nullptr); });
}

}  // extern "C"
