// CUDA bindings of edge_conv, included by cuda_bindings.cpp. Tensors are addresses, 0 where absent.

// shape: n_nodes, n_edges, n_rows, dim_in, dim_y, dim_out, weight_numel
EdgeConvShape edge_conv_cuda_shape(const std::array<int64_t, 7>& n, int64_t n_paths) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n_paths, 0};
}

// counts: the seven of ConvSizes
cuda::ConvSizes conv_sizes(const std::array<int64_t, 7>& n) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6]};
}

// addresses: paths, blocks, batches, then ptr, index and value of `contract` and of `transposed`
template <class T>
cuda::ConvTable<T> conv_table(const std::array<uintptr_t, 9>& p) {
  return {at<const cuda::ConvPath>(p[0]),
          at<const cuda::ConvBlock>(p[1]),
          at<const int32_t>(p[2]),
          {at<const int32_t>(p[3]), at<const int32_t>(p[4]), at<const T>(p[5])},
          {at<const int32_t>(p[6]), at<const int32_t>(p[7]), at<const T>(p[8])}};
}

EdgeConvGraph edge_conv_cuda_graph(const std::array<uintptr_t, 7>& p) {
  auto ints = [&](int i) { return at<const int64_t>(p[i]); };
  return {ints(0), ints(1), ints(2), ints(3), ints(4), ints(5), ints(6)};
}

template <class T>
EdgeConvInputs<T> edge_conv_cuda_inputs(const std::array<uintptr_t, 4>& p) {
  return {at<const T>(p[0]), at<const T>(p[1]), at<const T>(p[2]), at<const T>(p[3])};
}

template <class T>
EdgeConvAdjoints<T> edge_conv_cuda_adjoints(const std::array<uintptr_t, 3>& p) {
  return {at<const T>(p[0]), at<const T>(p[1]), at<const T>(p[2])};
}

template <class T>
void define_edge_conv_of(py::module_& m, const std::string& dtype) {
  // Channels of a block; wants: value, gradient, gy, adjoint
  m.def(("edge_conv_chunk_" + dtype).c_str(),
        [](std::array<int64_t, 7> shape, std::array<int64_t, 7> counts, std::array<bool, 4> wants,
           int64_t vector, uintptr_t /*stream*/) {
          return cuda::conv_chunk<T>(edge_conv_cuda_shape(shape, counts[0]), conv_sizes(counts),
                                     {wants[0], wants[1], wants[2], wants[3]}, vector);
        });
  // order: 0 forward, 1 backward, 2 double backward; cut: channels of a thread and of a block; weight_rows:
  // how gw is written, as enum WeightRows
  m.def(("edge_conv_receivers_" + dtype).c_str(),
        [](int order, std::array<int64_t, 7> shape, std::array<int64_t, 7> counts, std::array<int64_t, 2> cut,
           int weight_rows, std::array<uintptr_t, 7> graph, std::array<uintptr_t, 9> table,
           std::array<uintptr_t, 4> inputs, std::array<uintptr_t, 3> adjoints,
           std::array<uintptr_t, 4> outputs, uintptr_t stream) {
          cuda::edge_conv_receivers<T>(
              order, edge_conv_cuda_shape(shape, counts[0]), edge_conv_cuda_graph(graph), conv_sizes(counts),
              conv_table<T>(table), {cut[0], cut[1]}, cuda::WeightRows(weight_rows),
              edge_conv_cuda_inputs<T>(inputs), edge_conv_cuda_adjoints<T>(adjoints),
              {at<T>(outputs[0]), at<T>(outputs[1]), at<T>(outputs[2]), at<T>(outputs[3])}, at<void>(stream));
        });
  m.def(
      ("edge_conv_senders_" + dtype).c_str(),
      [](int order, std::array<int64_t, 7> shape, std::array<int64_t, 7> counts,
         std::array<uintptr_t, 7> graph, uintptr_t receiver, std::array<uintptr_t, 9> table,
         std::array<uintptr_t, 4> inputs, std::array<uintptr_t, 3> adjoints, uintptr_t gx, uintptr_t stream) {
        cuda::edge_conv_senders<T>(edge_conv_cuda_shape(shape, counts[0]), edge_conv_cuda_graph(graph),
                                   at<const int64_t>(receiver), conv_sizes(counts), conv_table<T>(table),
                                   order == 2, edge_conv_cuda_inputs<T>(inputs),
                                   edge_conv_cuda_adjoints<T>(adjoints), at<T>(gx), at<void>(stream));
      });
  m.def(("edge_conv_sum_parts_" + dtype).c_str(),
        [](uintptr_t from, uintptr_t to, int64_t n_parts, int64_t n, uintptr_t stream) {
          cuda::edge_conv_sum_parts<T>(at<const T>(from), at<T>(to), n_parts, n, at<void>(stream));
        });
}

void define_edge_conv(py::module_& m) {
  define_edge_conv_of<float>(m, "f32");
  define_edge_conv_of<double>(m, "f64");
}
