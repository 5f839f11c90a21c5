// What the arguments of an attention op must be. Every error is a Python ValueError that reads
// "name: expected ..., got ...".
#pragma once

#include <ATen/core/Tensor.h>

#include "attention_arguments.h"

namespace torchrec_gr {

// The arguments in kernel form, once they are found right. On a GPU only shapes, dtypes and devices
// are checked: to look at the data would make every call wait for the device.
AttentionArguments checked(const AttentionArguments& given);

// A gradient or output beside checked arguments, in kernel form: [Tq, H, V], dtype of q.
at::Tensor checked_output(const char* name, const at::Tensor& x,
                          const AttentionArguments& arguments);

// [Tq, H] float32 beside checked arguments, in kernel form.
at::Tensor checked_log_sum_exp(const at::Tensor& x, const AttentionArguments& arguments);

}  // namespace torchrec_gr
