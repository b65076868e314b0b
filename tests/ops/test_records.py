"""Laws of the records that cross into the extension: a field in another's place is refused, and never read."""

import importlib
import pkgutil
from collections import namedtuple

import pytest
import torch

import pathtune.ops
from pathtune.ops import _core
from pathtune.ops._edge_conv_records import ConvCut
from pathtune.ops._records import addresses, record
from pathtune.ops.soft_threshold import ThresholdRecord
from pathtune.ops.species_linear import SpeciesLinearIndex, SpeciesLinearSizes


def classes_of(module):
    return {name: value for name, value in vars(module).items() if isinstance(value, type)}


def test_every_record_of_the_extension_is_a_named_tuple_with_its_fields():
    found = {}
    for module in pkgutil.iter_modules(pathtune.ops.__path__, "pathtune.ops."):
        found |= classes_of(importlib.import_module(module.name))
    assert len(_core.records) > 10
    for name, fields in _core.records.items():
        assert ", ".join(found[name]._fields) == fields


def test_two_swapped_fields_are_refused_when_the_record_is_defined():
    swapped = namedtuple("ConvCut", ["chunk", "vector"])
    with pytest.raises(ImportError, match=r"ConvCut is \(chunk, vector\) in Python, but \(vector, chunk\)"):
        record(swapped)
    with pytest.raises(ImportError, match=r"but \(\) in the extension"):
        record(namedtuple("Unknown", ["x"]))


def arguments():
    sizes = SpeciesLinearSizes(0, 0, 0, 1, 0, 0, 0)
    return [sizes, SpeciesLinearIndex(0, 0, 0, 0, 0), 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, SpeciesLinearIndex(0, 0, 0, 0, 0), "found a SpeciesLinearIndex, expected a SpeciesLinearSizes"),
        (0, (0, 0, 0, 1, 0, 0, 0), "found a tuple, expected a SpeciesLinearSizes of n_nodes, dim_in"),
        (1, SpeciesLinearIndex(0, 0, 0, 0, 0.5), "'float' object cannot be interpreted as an integer"),
        (1, namedtuple("SpeciesLinearIndex", ["order"])(0), "expected a SpeciesLinearIndex of order, ptr"),
    ],
)
def test_what_is_not_the_record_is_refused_by_the_kernel(place, value, words):
    given = arguments()
    _core.species_linear_f64(*given)
    given[place] = value
    with pytest.raises(TypeError, match=words):
        _core.species_linear_f64(*given)


def test_addresses_are_those_of_the_tensors_and_zero_where_there_is_none():
    tensor = torch.zeros(3)
    assert addresses(ConvCut, [tensor, None]) == (tensor.data_ptr(), 0)
    with pytest.raises(TypeError, match="Expected 8 arguments"):
        addresses(ThresholdRecord, [tensor])
