"""What an adapter remembers of its base: the shape of every parameter and a few numbers of its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from pathtune.layers import Layer

Blocks = list[tuple[tuple[int, ...], int | None]]  # shapes, one after the other, and which axis counts species


def layer_blocks(layers: Sequence[Layer]) -> dict[str, Blocks]:
    """Blocks of the adaptable parameters, by name."""
    return {layer.parameter: [(path.shape, path.species_axis) for path in layer.paths] for layer in layers}


def shapes(blocks: Mapping[str, Blocks]) -> dict[str, list[int]]:
    """Sizes of every parameter's blocks, the number of species as 0."""
    return {
        name: [0 if k == axis else n for shape, axis in parts for k, n in enumerate(shape)]
        for name, parts in blocks.items()
    }


def fingerprint(
    parameters: Mapping[str, torch.Tensor],
    blocks: Mapping[str, Blocks],
    species: Sequence[int],
    scale: Callable[[str], float] = lambda name: 1.0,
) -> dict[str, torch.Tensor]:
    """Mean and rms [n_blocks, 2] of every parameter, float64, on the CPU.

    A species-indexed block gives one row for each of `species`, multiplied by `scale` of the parameter's name.
    """
    result = {}
    for name, parameter in parameters.items():
        flat, rows, offset = parameter.detach().cpu().double().flatten(), [], 0
        for shape, axis in blocks[name]:
            n = torch.Size(shape).numel()
            block = flat[offset : offset + n].reshape(shape)
            offset += n
            parts = [block] if axis is None else [block.select(axis, s) for s in species]
            factor = 1.0 if axis is None else scale(name)
            rows += [torch.stack([p.mean(), p.pow(2).mean().sqrt()]) * factor for p in parts if p.numel()]
        result[name] = torch.stack(rows) if rows else flat.new_zeros(0, 2)
    return result


class Fingerprinted:
    """A backbone whose species linears are divided by sqrt(n_species) in adapter files (docs/adapter-format.md)."""

    parameters: dict[str, torch.nn.Parameter]
    layers: tuple[Layer, ...]
    atomic_numbers: tuple[int, ...]

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter, the number of species as 0: what an adapter's base must share."""
        return shapes(self._blocks())

    def fingerprint(self, elements: Sequence[int]) -> dict[str, torch.Tensor]:
        """Mean and rms [n_blocks, 2] of every parameter; species-indexed ones per element, float64."""
        species = [self.atomic_numbers.index(z) for z in elements]
        return fingerprint(self.parameters, self._blocks(), species, lambda name: len(self.atomic_numbers) ** -0.5)

    def _blocks(self) -> dict[str, Blocks]:
        known = layer_blocks(self.layers)
        return {name: known.get(name, [(tuple(p.shape), None)]) for name, p in self.parameters.items()}
