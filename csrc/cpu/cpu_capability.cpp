// The op cpu_capability: which instructions the CPU kernels use.
#include <torch/library.h>

#include <stdexcept>
#include <string>

#include "attention_kernels.h"

namespace torchrec_gr::cpu {
namespace {

std::string capability() {
  try {
    return cpu_capability();
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

}  // namespace

// It takes no tensor whose device could pick a kernel, so this one is for all.
TORCH_LIBRARY_IMPL(torchrec_gr, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", capability);
}

}  // namespace torchrec_gr::cpu
