// The gradient of ax dF/dx + ay dF/dy + aw dF/dw: edge_conv.hpp.
#include "edge_conv/pass.hpp"

namespace pathtune::PATHTUNE_ISA {

template <class T>
void edge_conv_double_backward(const EdgeConvShape& shape, const EdgeConvGraph& graph,
                               const EdgeConvPath* paths, const double* coefficients,
                               const EdgeConvInputs<T>& in, const EdgeConvAdjoints<T>& adjoints,
                               const EdgeConvOutputs<T>& to) {
  Pass<T> pass{shape, graph, in, adjoints, to, make_plan<T>(paths, shape.n_paths, coefficients),
               {},    {},    1,  {}};
  if (to.gg && (to.gx || to.gw))
    pass.stages.push_back(make_stage<T, Mode::adjoint_value_and_gradient>(pass.plan));
  else if (to.gg)
    pass.stages.push_back(make_stage<T, Mode::adjoint_value>(pass.plan));
  else if (to.gx || to.gw)
    pass.stages.push_back(make_stage<T, Mode::adjoint_gradient>(pass.plan));
  // gy is rarely wanted of a double backward (a Hessian): a second walk, not a fused one
  if (to.gy) pass.stages.push_back(make_stage<T, Mode::adjoint_moments>(pass.plan));
  run_pass(pass);
}

#define PATHTUNE_INSTANTIATE(T)                                                                            \
  template void edge_conv_double_backward<T>(const EdgeConvShape&, const EdgeConvGraph&,                   \
                                             const EdgeConvPath*, const double*, const EdgeConvInputs<T>&, \
                                             const EdgeConvAdjoints<T>&, const EdgeConvOutputs<T>&);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
