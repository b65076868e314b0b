"""The CUDA kernels of edge_geometry, emulated."""

import pytest
import torch

from laws.edge_geometry import EdgeGeometryLaws, derivatives, make
from pathtune.ops import edge_geometry

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


class TestEmulated(EdgeGeometryLaws):
    tolerances = TOLERANCES


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("l_max", range(4))
def test_every_order_of_threads_gives_the_same_bits(l_max, dtype, cuda_kernels):
    inputs = make(l_max, 130, dtype)  # a block has 128 rows
    found = derivatives(edge_geometry, *inputs)
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, derivatives(edge_geometry, *inputs)))


@pytest.mark.parametrize("which", ["forward", "backward", "double backward"])
def test_traffic(which, forward_kernels):
    """Every tensor moves once, but for the constant harmonic, whose cotangent nobody reads."""
    n_rows = 50
    vectors, c, graph, sign = make(3, n_rows, torch.float32)
    n_edges = sign.numel()
    counts = {}

    def counted(name, function):
        forward_kernels.reset()
        result = function()
        counts[name] = forward_kernels.bytes_moved()
        return result

    lengths, y = counted("forward", lambda: edge_geometry(vectors, c, graph, sign))
    g = [torch.randn_like(t).requires_grad_() for t in (lengths, y)]
    (gv,) = counted("backward", lambda: torch.autograd.grad((lengths, y), vectors, g, create_graph=True))
    counted("double backward", lambda: torch.autograd.grad(gv, (vectors, *g), torch.ones_like(gv)))
    loads_y, index = 4 * 15 * n_edges, 8 * 2 * n_rows + (8 + 4) * n_edges
    loaded = {"forward": 12 * n_rows + index, "backward": 16 * n_rows + loads_y + index,
              "double backward": 28 * n_rows + loads_y + 2 * index}  # fmt: skip
    stores_y = 4 * 16 * n_edges
    stored = {"forward": 4 * n_rows + stores_y, "backward": 12 * n_rows, "double backward": 16 * n_rows + stores_y}
    assert counts[which] == (loaded[which], stored[which])
