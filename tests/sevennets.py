"""Small SevenNets for tests; imported after the fixture needs_sevenn."""

import torch

from pathtune.backbones._sevennet_stock import stock_sevennet


def tiny_sevennet(dtype=torch.float64, seed=0, **changes):
    """A random SevenNet of three elements, three layers, multiplicities that differ by irrep."""
    config = {
        "version": "0.13.0", "cutoff": 3.5, "channel": 4, "lmax": 2,
        "is_parity": False, "irreps_manual": ["8x0e", "8x0e+5x1e+3x2e", "8x0e+5x1e+3x2e", "8x0e"],
        "num_convolution_layer": 3, "weight_nn_hidden_neurons": [8], "self_connection_type": "linear",
        "conv_denominator": [2.5, 2.0, 1.5], "_number_of_species": 3, "_type_map": {8: 0, 1: 1, 6: 2},
        "chemical_species": ["O", "H", "C"], "shift": [-1.0, -2.0, -3.0], "scale": 1.3,
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 2.5},
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 4}, **changes,
    }  # fmt: skip
    return stock_sevennet(dtype, seed, **config)


PARITY = {"is_parity": True, "irreps_manual": False, "num_convolution_layer": 2, "conv_denominator": [2.5, 2.0]}
MODAL = {
    "use_modality": True, "_modal_map": {"a": 0, "b": 1}, "_number_of_modalities": 2,
    "use_modal_node_embedding": True, "use_modal_self_inter_intro": True, "use_modal_self_inter_outro": True,
    "use_modal_output_block": True, "use_modal_wise_shift": True, "use_modal_wise_scale": True,
    "shift": [[-1.0, -2.0, -3.0], [-1.5, -2.5, -3.5]], "scale": [1.3, 0.7],
}  # fmt: skip
OMAT = {**PARITY, "lmax": 3, "self_connection_type": "nequip"}
VARIANTS = {
    "SevenNet-0": {},
    "l3i5": {"lmax": 3, "irreps_manual": ["8x0e", "8x0e+5x1e+3x2e+2x3e", "8x0e+5x1e+3x2e+2x3e", "8x0e"],
             "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6}},
    "MF-0": MODAL,
    "both parities": PARITY,
    "species-indexed self connection": {"self_connection_type": "nequip"},
    "both parities, species-indexed": {**PARITY, "self_connection_type": "nequip"},
    "7net-omat": OMAT,
    "7net-mf-ompa and 7net-omni": {**MODAL, **OMAT},
    "eight layers, as 7net-omni-i8": {**MODAL, **OMAT, "lmax": 1, "channel": 2, "num_convolution_layer": 8,
                                      "conv_denominator": [2.5] * 8},
    "one scale and shift": {"shift": -1.5, "scale": 2.0},
    "shares between modalities": {**MODAL, "use_modal_node_embedding": False, "use_modal_wise_scale": False,
                                  "use_modal_wise_shift": False, "shift": [-1.0, -2.0, -3.0], "scale": 1.3},
}  # fmt: skip
