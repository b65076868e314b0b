"""Whatever an adapter file holds: one sentence that names it, or a model with ascending indices and finite values."""

import collections
import json

import hypothesis
import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch

from models import deltas_of, tiny_mace
from pathtune import InputError, SparseDelta, load, load_adapter, save_adapter, sparsify
from pathtune.adapter_file import checksum, read_adapter

pytestmark = pytest.mark.usefixtures("needs_mace")
FEW = hypothesis.settings(max_examples=250, derandomize=True, deadline=None, database=None)
MANY = hypothesis.settings(max_examples=10_000, deadline=None, database=None)


@pytest.fixture(scope="module", params=["1", "2"])
def world(request, tmp_path_factory):
    """A base, a file for adapters of it, and what a good one holds, in each format."""
    base, file = load(tiny_mace()), tmp_path_factory.mktemp("adapters") / "a.safetensors"
    model = sparsify(base, SparseDelta(delta_start="paper", initial_std=0.1, initial_threshold=0.1), elements=[1, 8])
    model.e0[0] += 0.125
    save_adapter(model, file, {"epochs": 3})
    tensors, metadata = read_adapter(file)
    if request.param == "1":
        tensors = {name.removeprefix("sparse."): tensor for name, tensor in tensors.items()}
        metadata = {key: value for key, value in metadata.items() if key != "components"} | {"format": "1"}
    return base, file, tensors, metadata


def write(file, tensors, metadata):
    """A file with this content and the checksum that belongs to it."""
    try:
        sums = checksum(tensors, {} if metadata.get("format") == "1" else metadata)
    except TypeError:  # of a tensor that numpy does not know
        sums = "none"
    file.write_bytes(safetensors.torch.save(tensors, {**metadata, "checksum": sums}))


def verdict(base, file):
    """What the law allows: "refused" or "loaded"."""
    model, said = None, ""
    try:
        model = load_adapter(base, file)
    except InputError as error:
        said = str(error)
    if model is None:
        assert str(file) in said
        assert "\n" not in said
        assert len(said) < 2000
        return "refused"
    for delta in deltas_of(model):
        assert delta.indices.numel() == delta.values.numel()
        assert (delta.indices.diff() > 0).all()
        assert not delta.indices.numel() or 0 <= delta.indices[0] <= delta.indices[-1] < delta.layer.numel
        assert torch.isfinite(delta.values).all()
        assert torch.isfinite(delta.threshold).all()
    assert torch.isfinite(model.e0).all()
    return "loaded"


def put(tensor, i, value):
    """The tensor with one entry replaced; what its type cannot hold becomes infinite, or the largest integer."""
    changed = tensor.flatten().clone()
    if changed.numel():
        is_real = tensor.is_floating_point()
        number = value if is_real else int(max(min(value, 2.0**31 - 1), -(2.0**31))) if value == value else -1
        changed[i % changed.numel()] = torch.tensor(number, dtype=torch.float64).to(tensor.dtype)
    return changed.view(tensor.shape)


CHANGES = {
    "gone": lambda t, i, x: None,
    "empty": lambda t, i, x: t.flatten()[:0],
    "shorter": lambda t, i, x: t[:-1],
    "longer": lambda t, i, x: torch.cat([t, t[-1:]]),
    "reversed": lambda t, i, x: t.flip(0),
    "a column": lambda t, i, x: t.unsqueeze(-1),
    "a scalar": lambda t, i, x: t.flatten()[0] if t.numel() else t,
    "flat": lambda t, i, x: t.flatten(),
    "repeated": lambda t, i, x: t.index_copy(0, torch.tensor([0]), t[-1:]) if len(t) else t,
    "one entry": put,
    "every entry": lambda t, i, x: put(t, i, x).flatten()[i % max(t.numel(), 1)].expand(t.shape).clone()
    if t.numel() else t,
    "shifted": lambda t, i, x: t + i,
    **{str(d): lambda t, i, x, d=d: t.to(d) for d in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.bool, torch.uint8,
        torch.int16, torch.int32, torch.int64, torch.complex64)},
}  # fmt: skip
ODD_NUMBERS = st.one_of(
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e300, 1e38, -1.0, 2.0**31, 2.0**62]),
    st.floats(), st.integers(-10, 2000).map(float))  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.integers(0, 120)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
LONG = {
    "deep": "[" * 100_000,
    "digits": "9" * 5000,
    "a large number": "[" + "9" * 5000 + "]",
    "200,001 elements": json.dumps(list(range(1, 200_002))),
    "a million and one": " " * 1_000_001,
}
ODD_TEXTS = st.one_of(
    st.sampled_from(["", "0", "-1", "3.0", "1e9", "NaN", "nan", "inf", "-inf", "1_0", "null", "[", "{}", "[]", "true",
                     "\ud7ff\0", *LONG]),
    JSON.map(json.dumps), st.text(st.characters(codec="utf-8"), max_size=20))  # fmt: skip


def tensors_are_checked(world, settings):
    base, file, tensors, metadata = world
    found = collections.Counter()

    @settings
    @hypothesis.given(
        st.sampled_from(sorted(tensors)), st.sampled_from(sorted(CHANGES)), st.integers(0, 500), ODD_NUMBERS
    )
    def law(name, change, i, x):
        changed = CHANGES[change](tensors[name], i, x)
        others = {key: tensor for key, tensor in tensors.items() if key != name}
        write(file, others if changed is None else {**others, name: changed.contiguous()}, metadata)
        found[verdict(base, file)] += 1

    law()
    return found


def metadata_are_checked(world, settings):
    base, file, tensors, metadata = world
    found = collections.Counter()

    @settings
    @hypothesis.given(
        st.sampled_from(sorted(metadata)), st.none() | ODD_TEXTS, st.integers(0, 10_000), st.characters(codec="utf-8")
    )
    def law(key, value, i, character):
        old = metadata[key]
        one_changed = old[: i % len(old)] + character + old[i % len(old) + 1 :]
        changed = {**metadata, key: one_changed if value is None else LONG.get(value, value)}
        if i % 10 == 0:
            del changed[key]
        write(file, tensors, changed)
        found[verdict(base, file)] += 1

    law()
    return found


def bytes_are_checked(world, settings):
    base, file, tensors, metadata = world
    write(file, tensors, metadata)
    whole = file.read_bytes()
    found = collections.Counter()

    @settings
    @hypothesis.given(st.integers(0, len(whole) - 1), st.integers(0, 7), st.booleans(), st.binary(max_size=8))
    def law(i, bit, is_cut, more):
        changed = bytearray(whole)
        changed[i] ^= 1 << bit
        file.write_bytes(bytes(changed[:i] if is_cut else changed) + (more if bit == 0 else b""))
        found[verdict(base, file)] += 1

    law()
    return found


WRONG_METADATA = {
    "n_species": ("5", "n_species is '5', expected 3 as atomic_numbers"),
    "r_max": ("NaN", "r_max is 'NaN', expected a cutoff in A"),
    "elements": ("[1, 8, 8]", r"elements is \[1, 8, 8\], expected each of 1 to 118 at most once"),
    "atomic_numbers": ("[1, 6, true]", r"atomic_numbers\[2\] is True, expected an integer"),
    "shapes": ('{"a": 1}', r"shapes\['a'\] is 1, expected a list"),
    "training": ("[]", r"training is \[\], expected a table"),
    "head": (None, "the metadata lack 'head'"),
}
NAME = "interactions.0.linear_up.weight"
WRONG_TENSORS = {
    f"{NAME}.values": (lambda t: t / 0, "holds a number that is not finite"),
    f"{NAME}.indices": (lambda t: t.flip(0), "does not ascend"),
    f"{NAME}.threshold": (lambda t: t[:0], r"threshold is float64 \[0\], expected real numbers \[1\]"),
    "e0.shift_ev": (lambda t: t.float(), r"e0.shift_ev is torch.float32 \[1\], expected float64 \[1\]"),
    "e0.atomic_numbers": (None, "lacks the tensor 'e0.atomic_numbers'"),
    f"fingerprint.{NAME}": (lambda t: t[:, :1], r"the fingerprint of .* is \[1, 1\], expected numbers \[n, 2\]"),
    "nothing.indices": (lambda t: torch.zeros(1), "holds a tensor 'nothing.indices', expected only"),
}


@pytest.mark.parametrize("key", WRONG_METADATA)
def test_what_is_wrong_in_the_metadata_is_named(world, key):
    base, file, tensors, metadata = world
    value, words = WRONG_METADATA[key]
    write(file, tensors, {k: v for k, v in {**metadata, key: value}.items() if v is not None})
    with pytest.raises(InputError, match=f"a.safetensors: {words}"):
        load_adapter(base, file)


@pytest.mark.parametrize("key", WRONG_TENSORS)
def test_what_is_wrong_in_a_tensor_is_named(world, key):
    base, file, tensors, metadata = world
    change, words = WRONG_TENSORS[key]
    name = next((name for name in tensors if name.removeprefix("sparse.") == key), key)
    others = {k: t for k, t in tensors.items() if k != name}
    write(file, others if change is None else {**others, name: change(tensors.get(name))}, metadata)
    with pytest.raises(InputError, match=f"a.safetensors: .*{words}"):
        load_adapter(base, file)


@pytest.mark.parametrize("components", ['[]', '[{"name": "sparse"}]', '[{"name": "e0", "kind": "sparse"}]',
                                        '[{"name": "sparse", "kind": "sparse"}, {"name": "sparse", "kind": "sparse"}]',
                                        '[{"name": "other", "kind": "sparse"}]', '[{"name": "sparse", "kind": "full"}]',
                                        '[{"name": "sparse", "kind": "lora"}]', '[{"name": "sparse", "kind": "pull"}]',
                                        '[{"name": "sparse", "kind": "modulation"}]',
                                        '[{"name": "sparse", "kind": "spin"}]'])  # fmt: skip
def test_components_that_are_not_those_of_the_tensors_are_refused(world, components):
    base, file, tensors, metadata = world
    if metadata["format"] == "2":
        write(file, tensors, {**metadata, "components": components})
        assert verdict(base, file) == "refused"


LAWS = [tensors_are_checked, metadata_are_checked, bytes_are_checked]


@pytest.mark.parametrize("law", LAWS)
def test_a_changed_file_is_refused_in_one_sentence_or_gives_a_sound_model(world, law):
    found = law(world, FEW)
    assert found["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_thousands_of_changed_files_are_refused_or_sound(world, law, capsys):
    found = law(world, MANY)
    with capsys.disabled():
        print(f"\n{law.__name__}: {dict(found)}")
    assert sum(found.values()) >= MANY.max_examples // 2
