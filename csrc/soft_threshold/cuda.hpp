// soft_threshold on CUDA: the contract of soft_threshold.hpp for tensors in device memory, but for the
// counts, which stay there: nobody has to wait for them.
#pragma once
#include <cstdint>

#include "soft_threshold/soft_threshold.hpp"

namespace pathtune::cuda {

// Adds to counts; n_active and n_changed of the layers are not touched. stream: a cudaStream_t.
template <class T>
void soft_threshold(const ThresholdedLayer<T>* layers,  // [n_layers] on the host
                    int64_t n_layers,
                    int64_t* counts,  // [n_layers, 2] on the device: active, changed
                    void* stream);

}  // namespace pathtune::cuda
