"""pathtune: sparse fine-tuning of equivariant interatomic potentials."""
