"""symmetric_contraction on the CPU: its laws, and what is the same on every device."""

import pytest
import torch

from laws.compare import assert_all_close, assert_close
from laws.symmetric_contraction import (
    N_SPECIES,
    SPECIES,
    SymmetricContractionLaws,
    derivatives,
    direct,
    kernel,
    make,
)
from pathtune.ops import symmetric_contraction
from pathtune.ops.symmetric_contraction import index_of, sizes_of
from pathtune.tables.contraction import contraction_coefficients, contraction_table
from pathtune.tables.irreps import layout_permutation

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6}


class TestOnCpu(SymmetricContractionLaws):
    tolerances = TOLERANCES
    between_subsets = 0.0


def test_opcheck():
    a, coefficients, groups, table = direct("ragged tails", "several")
    rest = (list(index_of(groups, table, a.device)), list(sizes_of(a, groups, table)))
    g = torch.randn(a.shape[0], table.n_out, a.shape[2], dtype=a.dtype, requires_grad=True)
    op = torch.ops.pathtune
    torch.library.opcheck(op.symmetric_contraction, (a, coefficients, *rest))
    for needs in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(op.symmetric_contraction_backward, (g, a, coefficients, *rest, needs))
    # No autograd beyond the second derivative: its arguments are plain.
    aa, g, a, c = (x.detach() for x in (torch.randn_like(a), g, a, coefficients))
    for ac in (None, torch.randn_like(c)):
        arguments = (aa, g, a, c, ac, *rest, [True, True, True])
        torch.library.opcheck(op.symmetric_contraction_double_backward, arguments)


def test_any_number_of_threads_gives_the_same_result():
    inputs = make("ragged tails", "more nodes than a thread takes at once")
    before = torch.get_num_threads()
    try:
        runs = []
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            runs.append(derivatives(kernel, *inputs))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert_all_close(run, runs[0], 1e-13)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a, c: (a.float(), c), TypeError, "coefficients is torch.float64, but a is torch.float32"),
        (lambda a, c: (a.half(), c.half()), TypeError, "float16"),
        (lambda a, c: (a[:, 1:], c), ValueError, "number of components of a is 3, expected 4"),
        (lambda a, c: (a.flatten(1), c), ValueError, "number of dimensions of a is 2, expected 3"),
        (lambda a, c: (a[1:], c), ValueError, "number of grouped nodes is 13, expected 12"),
        (lambda a, c: (a, c[:, 1:]), ValueError, "number of terms of coefficients"),
        (lambda a, c: (a, c[1:]), ValueError, "number of species of coefficients is 2, expected 3"),
        (lambda a, c: (a, c[..., 1:]), ValueError, "number of channels of coefficients is 2, expected 3"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    a, coefficients, groups, table = direct("ragged tails", "several")
    with pytest.raises(error, match=words):
        symmetric_contraction(*change(a.detach(), coefficients.detach()), groups, table)


def test_wrong_tables_and_weights_are_named():
    _, weights, _, outputs = make("ragged tails", "several")
    table = contraction_table(outputs)
    present = torch.tensor([1])
    with pytest.raises(ValueError, match=r"7 weight tensors, expected 8"):
        contraction_coefficients(weights[1:], present, table)
    with pytest.raises(ValueError, match=r"weights 0 have 1 parameters, expected 2"):
        contraction_coefficients([weights[0][:, 1:], *weights[1:]], present, table)
    with pytest.raises(ValueError, match=r"degree 2 has shape \(3, 4, 3, 4\), expected \(3, 4, 4\)"):
        contraction_table([outputs[0], [outputs[1][0], outputs[1][1][:, :, 1:]]])
    with pytest.raises(ValueError, match="no U tensor"):
        contraction_table([])


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("needs_mace", "default_float64")
@pytest.mark.parametrize(
    ("lmax", "irreps_out", "correlation", "use_reduced_cg"),
    [
        (2, "6x0e+6x1o", 3, False),
        (2, "6x0e+6x1o", 3, True),
        (2, "6x0e+6x1o+6x2e", 2, False),
        pytest.param(3, "6x0e+6x1o", 3, False, marks=pytest.mark.slow),  # mace takes half a minute to build U
    ],
)
def test_equals_mace(lmax, irreps_out, correlation, use_reduced_cg):
    from e3nn import o3
    from mace.modules.symmetric_contraction import SymmetricContraction

    irreps_in = (6 * o3.Irreps.spherical_harmonics(lmax)).sort().irreps.simplify()
    module = SymmetricContraction(
        irreps_in, o3.Irreps(irreps_out), correlation, use_reduced_cg=use_reduced_cg, num_elements=N_SPECIES
    )
    n_ell = (lmax + 1) ** 2
    outputs = []
    weights = []
    for (_, ir), contraction in zip(module.irreps_out, module.contractions):
        outputs.append([contraction.U_tensors(d).reshape(ir.dim, *[n_ell] * d, -1) for d in range(1, correlation + 1)])
        weights += [*reversed(list(contraction.weights)), contraction.weights_max]
    species = SPECIES["several"]
    one_hot = torch.nn.functional.one_hot(species, N_SPECIES).double()

    def stock(a, weights, species, outputs):
        out = module(a.transpose(1, 2), one_hot)[:, layout_permutation(module.irreps_out)]
        return out.reshape(a.shape[0], -1, a.shape[2])

    a = torch.randn(species.numel(), n_ell, 6, requires_grad=True)
    found, expected = (derivatives(f, a, weights, species, outputs) for f in (kernel, stock))
    assert_close(found[0], expected[0], 1e-12)
    assert_all_close(found, expected, 1e-10)
