"""That a batch goes to a device by one copy, whatever the model, counted on torch's meta device."""

import os
import sys

import pytest
import torch

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "emulation"))

from launches import Preparing

from models import named_molecules
from nequips import nequip_file
from nequixes import nequix_file
from pathtune import load, unfreeze
from pathtune.losses import loss
from pathtune.ops import _operator
from sevennets import tiny_sevennet
from test_device import on_meta

MODELS = {
    "mace": ("needs_mace", lambda folder: "demo"),
    "sevenn": ("needs_sevenn", lambda folder: tiny_sevennet(torch.float32)),
    "nequip": ("needs_nequip", lambda folder: str(nequip_file(folder))),
    "nequix": ("needs_e3nn", lambda folder: str(nequix_file(folder))),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_batch_is_one_copy_that_nobody_waits_for_and_a_known_one_is_none(kind, tmp_path, request, monkeypatch):
    needs, make = MODELS[kind]
    request.getfixturevalue(needs)
    monkeypatch.setattr(_operator, "_is_traced", lambda: True)  # the operators' fakes serve meta tensors
    model = on_meta(unfreeze(load(make(tmp_path), dtype="float32"), "full"))

    def step(batch):
        loss(model(batch, training=True), batch).backward()
        return batch

    step(model.collate(named_molecules("CH4", "H2O")))
    with Preparing() as first:
        batch = step(model.collate(named_molecules("CH3OH")))
    with Preparing() as again:
        step(batch)
    assert (first.n_copies, first.n_blocking) == (1, 0)
    assert again.n_copies == 0
