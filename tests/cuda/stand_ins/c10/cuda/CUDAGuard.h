// Stands in for torch's file of this name where the binding is built for the host.
#pragma once
#include <c10/core/Device.h>

namespace c10::cuda {
struct CUDAGuard {
    explicit CUDAGuard(c10::Device device) { last = device; }
    static inline c10::Device last{c10::DeviceType::CPU};
};
}  // namespace c10::cuda
