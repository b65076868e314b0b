// Included by cuda_bindings.cpp, inside its anonymous namespace.

cuda::ConvSizes conv_sizes(const record::ConvSizes& sizes) {
  return {.n_paths = sizes.n_paths,
          .n_blocks = sizes.n_blocks,
          .n_batches = sizes.n_batches,
          .n_slots = sizes.n_slots,
          .n_in_slots = sizes.n_in_slots,
          .max_m = sizes.max_m,
          .max_mul = sizes.max_mul};
}

template <class T>
cuda::ConvTable<T> conv_table(const record::ConvTable& table) {
  return {.paths = at<const cuda::ConvPath>(table.paths),
          .blocks = at<const cuda::ConvBlock>(table.blocks),
          .batches = at<const int32_t>(table.batches),
          .contract = {.ptr = at<const int32_t>(table.contract_ptr),
                       .index = at<const int32_t>(table.contract_index),
                       .value = at<const T>(table.contract_value)},
          .transposed = {.ptr = at<const int32_t>(table.transposed_ptr),
                         .index = at<const int32_t>(table.transposed_index),
                         .value = at<const T>(table.transposed_value)}};
}

// Channels of a block.
template <class T>
int64_t call_edge_conv_chunk(const record::EdgeConvSizes& sizes, const record::ConvSizes& table_sizes,
                             const record::ConvWants& wants, int64_t vector, uintptr_t /*stream*/) {
  return cuda::conv_chunk<T>(shape_of(sizes, 0), conv_sizes(table_sizes),
                             {.value = wants.value != 0,
                              .gradient = wants.gradient != 0,
                              .gy = wants.gy != 0,
                              .adjoint = wants.adjoint != 0},
                             vector);
}

// order: 0 forward, 1 backward, 2 double backward; weight_rows: how gw is written, as enum WeightRows.
template <class T>
void call_edge_conv_receivers(int order, int weight_rows, const record::ConvCut& cut,
                              const record::EdgeConvSizes& sizes, const record::EdgeConvIndex& index,
                              const record::ConvSizes& table_sizes, const record::ConvTable& table,
                              const record::EdgeConvInputs& inputs, const record::EdgeConvAdjoints& adjoints,
                              const record::EdgeConvOutputs& outputs, uintptr_t stream) {
  cuda::edge_conv_receivers<T>(order, shape_of(sizes, 0), graph_of(index), conv_sizes(table_sizes),
                               conv_table<T>(table), {.vector = cut.vector, .chunk = cut.chunk},
                               cuda::WeightRows(weight_rows), inputs_of<T>(inputs), adjoints_of<T>(adjoints),
                               outputs_of<T>(outputs), at<void>(stream));
}

template <class T>
void call_edge_conv_senders(int order, int64_t receiver, const record::EdgeConvSizes& sizes,
                            const record::EdgeConvIndex& index, const record::ConvSizes& table_sizes,
                            const record::ConvTable& table, const record::EdgeConvInputs& inputs,
                            const record::EdgeConvAdjoints& adjoints, int64_t gx, uintptr_t stream) {
  cuda::edge_conv_senders<T>(shape_of(sizes, 0), graph_of(index), at<const int64_t>(receiver),
                             conv_sizes(table_sizes), conv_table<T>(table), order == 2, inputs_of<T>(inputs),
                             adjoints_of<T>(adjoints), at<T>(gx), at<void>(stream));
}

template <class T>
void call_edge_conv_sum_parts(int64_t from, int64_t to, int64_t n_parts, int64_t n, uintptr_t stream) {
  cuda::edge_conv_sum_parts<T>(at<const T>(from), at<T>(to), n_parts, n, at<void>(stream));
}

void bind_edge_conv(py::module_& m) {
  bind_records<record::EdgeConvSizes, record::EdgeConvIndex, record::EdgeConvInputs, record::EdgeConvAdjoints,
               record::EdgeConvOutputs>(m);
  bind_records<record::ConvSizes, record::ConvTable, record::ConvCut, record::ConvWants>(m);
  m.def("edge_conv_chunk_f32", &call_edge_conv_chunk<float>);
  m.def("edge_conv_chunk_f64", &call_edge_conv_chunk<double>);
  m.def("edge_conv_receivers_f32", &call_edge_conv_receivers<float>);
  m.def("edge_conv_receivers_f64", &call_edge_conv_receivers<double>);
  m.def("edge_conv_senders_f32", &call_edge_conv_senders<float>);
  m.def("edge_conv_senders_f64", &call_edge_conv_senders<double>);
  m.def("edge_conv_sum_parts_f32", &call_edge_conv_sum_parts<float>);
  m.def("edge_conv_sum_parts_f64", &call_edge_conv_sum_parts<double>);
}
