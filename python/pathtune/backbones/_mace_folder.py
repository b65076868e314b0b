"""A MACE model as a folder: constructor arguments in model.json, weights in model.safetensors. No pickle.

What is written is built again and compared, so that nothing is lost in silence.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from pathtune.backbones._mace_stock import GATES, stock_mace
from pathtune.errors import InputError
from pathtune.files import read_text, write_atomically, write_text

FORMAT = 1
KEYS = {"format", "package", "class", "dtype", "constructor", "avg_num_neighbors"}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}


def write_folder(stock: Any, folder: pathlib.Path) -> None:
    """Write a MACE or ScaleShiftMACE. Raises InputError where the folder exists, and for options beyond the format."""
    if folder.exists():
        raise InputError(f"{folder}: exists already, expected a new folder")
    document = {
        "format": FORMAT,
        "package": "mace-torch",
        "class": type(stock).__name__,
        "dtype": str(next(stock.parameters()).dtype).removeprefix("torch."),
        "constructor": _constructor(stock, str(folder)),
        "avg_num_neighbors": [float(block.avg_num_neighbors) for block in stock.interactions],
    }
    # copying a module of e3nn turns constants of its compiled code into buffers
    state = {k: v.detach().cpu().contiguous() for k, v in stock.state_dict().items() if "._tensor_constant" not in k}
    _check(stock, _built(document, dict(state), str(folder)), str(folder))
    content = safetensors.torch.save({name: tensor.clone() for name, tensor in state.items()})
    folder.mkdir(parents=True)
    write_atomically(folder / "model.safetensors", lambda stream: stream.write(content))
    write_text(folder / "model.json", json.dumps(document, indent=1) + "\n")


def read_folder(folder: pathlib.Path) -> torch.nn.Module:
    """The model of a folder that `write_folder` made; nothing is executed. InputError for any other folder."""
    try:
        document = json.loads(read_text(folder / "model.json"))
    except ValueError as error:
        raise InputError(f"{folder / 'model.json'}: is not JSON ({error})") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT or set(document) != KEYS:
        raise InputError(f"{folder / 'model.json'}: has format {found!r}, expected {FORMAT}, as pathtune export writes")
    try:
        state = safetensors.torch.load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / 'model.safetensors'}: cannot be read ({error})") from error
    return _built(document, state, str(folder))


def _constructor(stock: Any, where: str) -> dict[str, Any]:
    """Arguments of the constructor that makes a model of these blocks, as JSON has them."""
    from pathtune.backbones._mace_layers import n_heads_of

    radial, first, last = stock.radial_embedding, stock.interactions[0], stock.interactions[-1]
    readout, products, n_heads = stock.readouts[-1], stock.products, n_heads_of(stock)
    hidden = products[0].linear.irreps_out
    options = {
        "r_max": float(stock.r_max),
        "num_bessel": int(radial.out_dim),
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "max_ell": int(stock.spherical_harmonics.irreps_out.lmax),
        "interaction_cls": type(last).__name__,
        "interaction_cls_first": type(first).__name__,
        "num_interactions": len(stock.interactions),
        "hidden_irreps": str(hidden),
        "MLP_irreps": _per_head(readout, n_heads),
        "atomic_energies": stock.atomic_energies_fn.atomic_energies.tolist(),
        "avg_num_neighbors": float(first.avg_num_neighbors),
        "atomic_numbers": stock.atomic_numbers.tolist(),
        "correlation": [len(product.symmetric_contractions.contractions[0].weights) + 1 for product in products],
        "gate": _gate(readout, where),
        "pair_repulsion": hasattr(stock, "pair_repulsion_fn"),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "use_reduced_cg": bool(getattr(stock, "use_reduced_cg", False)),
        "use_so3": bool(getattr(stock, "use_so3", False)),
        "use_agnostic_product": bool(getattr(products[0], "use_agnostic_product", False)),
        "use_last_readout_only": len(stock.readouts) == 1 and len(stock.interactions) > 1,
        "use_embedding_readout": hasattr(stock, "embedding_readout"),
        "distance_transform": _name(TRANSFORMS, getattr(radial, "distance_transform", None)),
        "edge_irreps": None if getattr(stock, "edge_irreps", None) is None else str(stock.edge_irreps),
        "use_edge_irreps_first": bool(getattr(stock, "use_edge_irreps_first", False)),
        "radial_MLP": [int(n) for n in first.conv_tp_weights.hs[1:-1]],
        "radial_type": _name(BASES, radial.bessel_fn),
        "heads": list(stock.heads) if getattr(stock, "heads", None) else None,
        "embedding_specs": getattr(stock, "embedding_specs", None),
        "readout_cls": type(readout).__name__ if hasattr(readout, "hidden_irreps") else "NonLinearReadoutBlock",
        "keep_last_layer_irreps": len(products) > 1 and str(products[-1].linear.irreps_out) == str(hidden),
    }
    if hasattr(stock, "scale_shift"):
        options["atomic_inter_scale"] = stock.scale_shift.scale.tolist()
        options["atomic_inter_shift"] = stock.scale_shift.shift.tolist()
    return options


def _per_head(readout: Any, n_heads: int) -> str:
    from e3nn import o3

    hidden = getattr(readout, "hidden_irreps", None)
    return str(o3.Irreps([(mul // n_heads, ir) for mul, ir in hidden])) if hidden is not None else "1x0e"


def _gate(readout: Any, where: str) -> str | None:
    activation = getattr(readout, "non_linearity", None)
    if activation is None:
        return "silu"
    function = getattr(activation.acts[0], "f", None)
    for name, gate in GATES.items():
        if gate is function:
            return name
    raise InputError(f"{where}: the model's gate is {function}, expected one of silu, tanh, abs")


def _name(names: dict[str, str], module: Any) -> str:
    return "None" if module is None else names.get(type(module).__name__, type(module).__name__)


def _built(document: dict[str, Any], state: dict[str, torch.Tensor], where: str) -> torch.nn.Module:
    cls, dtype = str(document["class"]), str(document["dtype"])
    if cls not in ("MACE", "ScaleShiftMACE") or dtype not in DTYPES:
        raise InputError(f"{where}: holds a {cls} in {dtype}, expected a MACE or ScaleShiftMACE in float32 or float64")
    try:
        stock: Any = stock_mace(cls, DTYPES[dtype], **document["constructor"])
        stock.load_state_dict(state, strict=True, assign=True)  # with the precision of each tensor
        for block, n in zip(stock.interactions, document["avg_num_neighbors"], strict=True):
            block.avg_num_neighbors = n
    except Exception as error:  # whatever mace's constructor raises at arguments that do not belong together
        raise InputError(f"{where}: no MACE can be built of it ({type(error).__name__}: {error})") from error
    return stock


def _check(stock: Any, built: Any, where: str) -> None:
    """Raise InputError unless both have modules of the same kinds and agree on a small structure, bit by bit."""
    import ase

    from pathtune.backbones._mace_layers import copied
    from pathtune.backbones.mace import MaceBackbone
    from pathtune.data import Request, collate, from_atoms

    numbers = [int(z) for z in stock.atomic_numbers][:4]
    atoms = ase.Atoms(numbers * 2, [[1.1 * k, 0.3 * (k % 3), 0.2 * (k % 2)] for k in range(2 * len(numbers))])
    found = []
    for model in (stock, built):
        backbone = MaceBackbone(copied(model), "reference")
        structure = from_atoms(atoms)
        for name in backbone.inputs:
            least = backbone.input_ranges.get(name, (0, 0))[0]
            structure.labels[name] = torch.full((), float(max(least, 0)), dtype=torch.float64).numpy()
        batch = collate([structure], backbone.atomic_numbers, backbone.r_max, backbone.dtype)
        out = backbone.predict({}, batch, Request())
        found.append(torch.cat([out["energy"], out["forces"].flatten()]))
    if not torch.equal(*found):
        raise InputError(f"{where}: the model has options that its constructor's arguments do not tell, expected none")
