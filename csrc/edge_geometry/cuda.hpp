// edge_geometry on CUDA: the contract of edge_geometry.hpp for tensors in device memory, but for the factors
// c, which lie on the host.
#pragma once
#include "edge_geometry/edge_geometry.hpp"

namespace pathtune::cuda {

// stream: a cudaStream_t
template <class T>
void edge_geometry(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T* vectors, T* lengths, T* y,
                   void* stream);
template <class T>
void edge_geometry_backward(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T* vectors,
                            const T* g_lengths, const T* gy, T* gv, void* stream);
template <class T>
void edge_geometry_double_backward(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T* vectors,
                                   const T* g_lengths, const T* gy, const T* av, T* a_lengths, T* ay, T* gv,
                                   void* stream);

}  // namespace pathtune::cuda
