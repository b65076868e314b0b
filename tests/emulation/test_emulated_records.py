"""The CUDA bindings read the records that Python writes."""

from pathtune.ops import _core


def test_the_records_of_the_cuda_bindings_are_those_of_the_extension(emulated):
    assert emulated.records
    assert emulated.records.items() <= _core.records.items()
