// dF/dg and dF/d(x, y, w): formula in edge_conv.hpp, arithmetic in path_kernels.hpp, threads in pass.hpp.
#include "edge_conv/pass.hpp"

namespace pathtune::PATHTUNE_ISA {

template <class T>
void edge_conv(const EdgeConvShape& shape, const EdgeConvGraph& graph, const EdgeConvPath* paths,
               const double* coefficients, const EdgeConvInputs<T>& in, const EdgeConvOutputs<T>& to) {
  Pass<T> pass{shape, graph, in, {}, to, make_plan<T>(paths, shape.n_paths, coefficients), {}, {}, 1, {}};
  pass.stages.push_back(make_stage<T, Mode::value>(pass.plan));
  run_pass(pass);
}

template <class T>
void edge_conv_backward(const EdgeConvShape& shape, const EdgeConvGraph& graph, const EdgeConvPath* paths,
                        const double* coefficients, const EdgeConvInputs<T>& in,
                        const EdgeConvOutputs<T>& to) {
  Pass<T> pass{shape, graph, in, {}, to, make_plan<T>(paths, shape.n_paths, coefficients), {}, {}, 1, {}};
  if (to.gy && (to.gx || to.gw))
    pass.stages.push_back(make_stage<T, Mode::gradient_and_moments>(pass.plan));
  else if (to.gy)
    pass.stages.push_back(make_stage<T, Mode::moments>(pass.plan));
  else if (to.gx || to.gw)
    pass.stages.push_back(make_stage<T, Mode::gradient>(pass.plan));
  run_pass(pass);
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void edge_conv<T>(const EdgeConvShape&, const EdgeConvGraph&, const EdgeConvPath*, const double*, \
                             const EdgeConvInputs<T>&, const EdgeConvOutputs<T>&);                           \
  template void edge_conv_backward<T>(const EdgeConvShape&, const EdgeConvGraph&, const EdgeConvPath*,       \
                                      const double*, const EdgeConvInputs<T>&, const EdgeConvOutputs<T>&);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
