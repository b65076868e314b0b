"""Small NequIPs for tests, as checkpoints of nequip; imported after the fixture needs_nequip."""

import torch

from pathtune.backbones._packages import quiet_torchscript
from pathtune.backbones.nequip import nequip_globals

NAMES = ["O", "H", "C"]
MODEL = {
    "_target_": "nequip.model.NequIPGNNModel", "seed": 7, "model_dtype": "float64", "type_names": NAMES, "r_max": 3.5,
    "num_layers": 3, "l_max": 2, "parity": False, "num_features": [8, 5, 3], "type_embed_num_features": 6,
    "radial_mlp_depth": 2, "radial_mlp_width": 8, "num_bessels": 4, "avg_num_neighbors": 5.5,
    "per_type_energy_scales": {"O": 1.3, "H": 0.8, "C": 1.1}, "per_type_energy_shifts": {"O": -3.0, "H": -1.0, "C": -2},
}  # fmt: skip
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": NAMES}
FULL = {
    "_target_": "nequip.model.FullNequIPGNNModel", "radial_mlp_depth": [1, 2], "radial_mlp_width": [8, 6],
    "feature_irreps_hidden": ["6x0e+4x1o", "6x0e"], "irreps_edge_sh": "0e+1o", "learnable_shift": True,
}  # fmt: skip
ALLEGRO = {
    "_target_": "allegro.model.AllegroModel", "seed": 7, "model_dtype": "float64", "type_names": NAMES, "r_max": 3.5,
    "l_max": 1, "num_layers": 1, "num_scalar_features": 4, "num_tensor_features": 2, "avg_num_neighbors": 5.5,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4},
    "radial_chemical_embed_dim": 4, "allegro_mlp_hidden_layers_width": 4, "readout_mlp_hidden_layers_width": 4,
}  # fmt: skip
NOT_FULL = ("num_layers", "l_max", "parity", "num_features")
VARIANTS = {
    "one parity": {},
    "both parities, pair potential": {"parity": True, "num_layers": 2, "pair_potential": ZBL},
    "l = 3": {"l_max": 3, "num_features": [8, 5, 3, 2], "num_layers": 2},
    "scalars only": {"l_max": 0, "num_features": [8]},
    "neighbours by type, no scales and shifts": {
        "avg_num_neighbors": {"O": 4.0, "H": 5.0, "C": 6.0}, "per_type_energy_scales": None,
        "per_type_energy_shifts": None, "num_layers": 2},
    "trained Bessel roots, scales and shifts": {
        "bessel_trainable": True, "per_type_energy_scales_trainable": True, "per_type_energy_shifts_trainable": True,
        "num_layers": 2},
    "one scale and shift, deep readout": {
        "per_type_energy_scales": 1.3, "per_type_energy_shifts": -1.5, "readout_mlp_hidden_layers_depth": 1,
        "num_layers": 1, "polynomial_cutoff_p": 4},
    "preset": {"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "S", "num_features": [6, 4], "l_max": 1,
               "radial_mlp_width": 8, "num_layers": 2},
    "self connection in the first layer": FULL,
}  # fmt: skip
STOCK = {
    "update that adds": {**FULL, "convnet_resnet": True, "feature_irreps_hidden": ["6x0e+4x1o", "6x0e+4x1o", "6x0e"],
                         "radial_mlp_depth": [1, 1, 1], "radial_mlp_width": [6, 6, 6]},
    "nonlinearity of norms": {**FULL, "convnet_nonlinearity_type": "norm"},
    "cutoffs by type": {"per_edge_type_cutoff": {"O": 3.0, "H": {"O": 2.5}}, "num_layers": 2},
}


def config_of(**changes):
    """The builder's arguments; those that a builder does not know are left out."""
    config = {**MODEL, **changes}
    if config["_target_"].endswith("FullNequIPGNNModel"):
        config = {k: v for k, v in config.items() if k not in NOT_FULL}
    return config


def nequip_file(folder, trainer="NequIPLightningModule", name="tiny.ckpt", config=None, **changes):
    """A checkpoint as Lightning writes it, of nequip's own module of a model with random weights."""
    import lightning
    import nequip.train
    from nequip.utils import get_current_code_versions

    config = config or config_of(**changes)
    target = {"_target_": f"nequip.train.{trainer}", "model": config}
    info = {"training_module": target, "data": {}, "trainer": {}, "runs": ["train"]}
    with nequip_globals(), quiet_torchscript():
        info["versions"] = get_current_code_versions(verbose=False)
        n = {"train": 1, "val": 0, "test": 0, "predict": 0}
        module = getattr(nequip.train, trainer)(model=config, num_datasets=n, info_dict=info)
        if trainer == "EMALightningModule":  # the average becomes another one than the last weights
            with torch.no_grad():
                for parameter in module.model.parameters():
                    parameter.mul_(1.5)
            module.ema.update_parameters(module.model)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "epoch": 0,
               "global_step": 0, "pytorch-lightning_version": lightning.__version__, "loops": None}  # fmt: skip
    torch.save(content, folder / name)
    return folder / name


def nequip_says(file, *frames):
    """Energies, forces and stresses (None where there is no cell) that nequip itself computes with a file."""
    from nequip.data import from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.model.saved_models.load_utils import load_saved_model

    results = []
    with nequip_globals(), quiet_torchscript():
        model = load_saved_model(str(file)).eval()
        names = list(model.type_names)
        mapper = ChemicalSpeciesToAtomTypeMapper(names, dict(zip(names, names)))
        neighbors = NeighborListTransform(r_max=float(model.metadata["r_max"]))
        for atoms in frames:
            out = model(neighbors(mapper(from_ase(atoms))))
            stress = out["stress"][0].detach().double() if atoms.cell.rank == 3 else None
            results.append((out["total_energy"].item(), out["forces"].detach().double(), stress))
    return results


def packaged(file, out):
    """A package as `nequip-package build` makes it, of a checkpoint; without example data."""
    import yaml
    from nequip.model.saved_models.load_utils import load_saved_model
    from nequip.scripts import _package_utils as rules

    with nequip_globals(), quiet_torchscript(), torch.package.PackageExporter(str(out)) as exporter:
        model = load_saved_model(str(file), model_key=None)
        exporter.mock([f"{name}.**" for name in rules._MOCK_MODULES])
        exporter.extern([f"{name}.**" for name in rules._EXTERNAL_MODULES])
        exporter.intern([f"{name}.**" for name in rules._INTERNAL_MODULES])
        info = torch.load(file, weights_only=True)["hyper_parameters"]["info_dict"]
        metadata = {"versions": info.pop("versions"), "package_version_id": 2, "available_models": ["eager"],
                    "atom_types": dict(enumerate(NAMES))}  # fmt: skip
        exporter.save_text("model", "config.yaml", yaml.dump(info))
        exporter.save_text("model", "package_metadata.txt", yaml.dump(metadata))
        exporter.save_pickle("model", "eager_model.pkl", model, dependencies=True)
    return out


TRAINING = """
run: [train]
names: [H, C, O]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {file_path: frames.xyz, train: 6, val: 2}
  transforms:
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${names}
      chemical_species_to_atom_type_map: ${list_to_identity_dict:${names}}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  stats_manager: {_target_: nequip.data.CommonDataStatisticsManager, type_names: "${names}"}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 2
  logger: false
  enable_progress_bar: false
  callbacks:
    - {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: "${hydra:runtime.output_dir}", save_last: true}
training_module:
  _target_: nequip.train.EMALightningModule
  loss: {_target_: nequip.train.EnergyForceLoss, per_atom_energy: true, coeffs: {total_energy: 1.0, forces: 1.0}}
  val_metrics: {_target_: nequip.train.EnergyForceMetrics, coeffs: {per_atom_energy_mae: 1.0, forces_mae: 1.0}}
  optimizer: {_target_: torch.optim.Adam, lr: 0.01}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 7
    model_dtype: float64
    type_names: ${names}
    r_max: 4.0
    num_layers: 2
    l_max: 2
    parity: true
    num_features: [8, 5, 3]
    radial_mlp_width: 8
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_scales: ${training_data_stats:per_type_forces_rms}
    per_type_energy_shifts: ${training_data_stats:per_atom_energy_mean}
    pair_potential: {_target_: nequip.nn.pair_potential.ZBL, units: metal, chemical_species: "${names}"}
"""
