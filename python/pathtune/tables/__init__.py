"""Irreps, instructions and U tensors become the flat tables that the kernels read: one file per operator."""
