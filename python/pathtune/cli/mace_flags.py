"""The flags of mace_run_train (mace-torch 0.3.16): how each is written, and what stands in the place of those that
pathtune fit does not have. Those that it has are translated in from_mace.py."""

from __future__ import annotations

ALIASES = {
    "stage_two": "swa",
    "start_stage_two": "start_swa",
    "stage_two_lr": "swa_lr",
    "stage_two_energy_weight": "swa_energy_weight",
    "stage_two_forces_weight": "swa_forces_weight",
    "stage_two_stress_weight": "swa_stress_weight",
    "stage_two_virials_weight": "swa_virials_weight",
    "stage_two_dipole_weight": "swa_dipole_weight",
    "stage_two_polarizability_weight": "swa_polarizability_weight",
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WITHOUT_VALUE = _names(
    "distributed pair_repulsion amsgrad swa lbfgs ema foundation_model_readout keep_checkpoints save_all_checkpoints "
    "restart_latest save_cpu dry_run wandb disallow_random_padding_pt"
)
WITH_VALUES = _names("wandb_log_hypers")  # one or several

TRANSLATED = _names(
    "config name work_dir seed device default_dtype train_file valid_file valid_fraction test_file heads "
    "energy_key forces_key stress_key virials_key total_charge_key total_spin_key energy_weight forces_weight "
    "stress_weight loss huber_delta batch_size max_num_epochs patience clip_grad optimizer lr "
    "beta1_schedulefree freeze lora lora_rank lora_alpha foundation_model foundation_head E0s pt_train_file "
    "config_type_weights weight_pt_head multiheads_finetuning restart_latest dry_run wandb"
)

_ARCHITECTURE = "the architecture and its constants are the pretrained model's, and stay as they are."
_FOLDER = "everything that a run leaves lies in its one folder, --out."
_STAGE_TWO = (
    "there is no second stage: schedule-free averaging takes the place of the falling rate, and the last refit of E0 "
    "takes out what the energies drifted by; --energy-weight sets one weight for the whole run."
)
_SCHEDULE = "schedule-free AdamW needs no schedule: it averages the weights, and its rate follows the run's length."
_OPTIMIZER = "the optimizer is schedule-free AdamW with its own constants; --lr and --beta1 are what can be set."
_DIPOLES = "dipoles and polarizabilities are not trained; pathtune fit learns energies, forces and stresses."
_INPUTS = "charges of atoms and electronic temperatures are not read."
_MULTIHEAD = "one head is trained; --replay FILE mixes structures of what the base knows in, against forgetting."
_REPLAY = "every structure of --replay is used; give a smaller file, or a slice such as FILE@:1000."
_PROCESSES = "torchrun -m pathtune fit trains in several processes; sets of any size are read from pathtune prepare's."
_KERNELS = "pathtune computes with its own kernels; --backend chooses."
_WANDB = "--logger wandb logs every option; WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME and WANDB_DIR say where."
_FOUNDATION = "the pretrained model is tuned as it is, all its elements and readouts kept."
_PLOT = "report/index.html in the run's folder shows learning curve and parity; log.csv and predictions.extxyz have it."
_CHECKPOINTS = "one checkpoint is kept, for --resume; the result is the best epoch."
_STATISTICS = "the scale and shift of the pretrained model are kept; only E0 are refitted."
_TEST_FOLDER = "test structures are files: --test takes several, and globs such as 'tests/*.extxyz'."

_GROUPS = {
    _ARCHITECTURE: "model r_max radial_type num_radial_basis num_cutoff_basis pair_repulsion distance_transform "
    "apply_cutoff use_last_readout_only use_embedding_readout interaction interaction_first max_ell correlation "
    "use_reduced_cg use_so3 use_agnostic_product num_interactions MLP_irreps radial_MLP hidden_irreps edge_irreps "
    "use_edge_irreps_first num_channels max_L gate kspace_cutoff_factor atomic_multipoles_max_l "
    "atomic_multipoles_smearing_width field_feature_max_l field_feature_widths field_feature_norms "
    "num_recursion_steps field_si include_electrostatic_self_interaction add_local_electron_energy "
    "quadrupole_feature_corrections return_electrostatic_potentials field_norm_factor fixedpoint_update_config "
    "field_readout_config avg_num_neighbors compute_avg_num_neighbors les_arguments embedding_specs",
    _FOLDER: "log_dir model_dir checkpoints_dir results_dir downloads_dir",
    _STAGE_TWO: "swa start_swa swa_lr swa_energy_weight swa_forces_weight swa_stress_weight swa_virials_weight "
    "swa_dipole_weight swa_polarizability_weight",
    _SCHEDULE: "scheduler lr_factor scheduler_patience lr_scheduler_gamma",
    _OPTIMIZER: "beta beta2_schedulefree amsgrad weight_decay",
    _DIPOLES: "dipole_key dipole_weight polarizability_key polarizability_weight compute_polarizability "
    "compute_atomic_dipole",
    _INPUTS: "charges_key elec_temp_key",
    _MULTIHEAD: "pt_valid_file force_mh_ft_lr real_pt_data_ratio_threshold skip_evaluate_heads head_key",
    _REPLAY: "num_samples_pt subselect_pt filter_type_pt disallow_random_padding_pt",
    _PROCESSES: "distributed launcher num_workers pin_memory",
    _KERNELS: "enable_cueq only_cueq enable_oeq",
    _WANDB: "wandb_dir wandb_project wandb_entity wandb_name wandb_log_hypers",
    _FOUNDATION: "foundation_model_kwargs foundation_model_readout foundation_filter_elements "
    "foundation_model_elements",
    _PLOT: "plot plot_frequency plot_interaction_e",
    _CHECKPOINTS: "keep_checkpoints save_all_checkpoints",
    _STATISTICS: "scaling mean std statistics_file",
    _TEST_FOLDER: "test_dir multi_processed_test",
}
_SINGLE = {
    "virials_weight": "virials are read as stresses, which --stress-weight weighs.",
    "log_level": "there is one level: the progress, and warnings.",
    "error_table": "MAE and RMSE of every label are printed, for --test too.",
    "compute_stress": "stresses are computed where the structures have them under --stress-key.",
    "compute_forces": "forces are always computed.",
    "atomic_numbers": "the elements are those of the structures and of the pretrained model.",
    "keep_isolated_atoms": "frames of config_type IsolatedAtom are trained on, unless --e0 isolated is given.",
    "pseudolabel_replay": "it is what --replay does unless --replay-labels own is given.",
    "pseudolabel_replay_compute_stress": "replayed structures get a stress where they are periodic.",
    "valid_batch_size": "structures are validated in batches of --batch-size.",
    "lr_params_factors": "all trained weights share one rate; --freeze and --full-targets leave some alone.",
    "lbfgs": "there is no L-BFGS; train longer with --epochs.",
    "ema": "schedule-free training averages the weights itself; --beta1 is how strongly.",
    "ema_decay": "schedule-free training averages the weights itself; --beta1 is how strongly.",
    "eval_interval": "every epoch is validated.",
    "save_cpu": "the merged model always loads on a CPU.",
}
ANSWERS = {name: answer for answer, names in _GROUPS.items() for name in names.split()} | _SINGLE
