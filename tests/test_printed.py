"""Laws of what a user of Python sees: results print as tables, and progress is shown where somebody looks."""

import json
import pickle
import sys
import types

import pytest

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, SparseDelta, evaluate, fit, load, sparsify
from pathtune.data import Frames, from_atoms
from pathtune.training import History
from pathtune.training.options import ROWS
from pathtune.training.progress import shown_progress


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def frames():
    made = labelled([molecule(seed, n=4) for seed in range(4)])
    made[0].info["config_type"] = "[bold]"  # words of a file, no markup
    return Frames([from_atoms(atoms) for atoms in made])


def line(epoch, loss):
    return {"epoch": epoch, "train_loss": loss, "valid_loss": loss, "valid_errors": {"energy_mae_mev_atom": 2.0},
            "is_eligible": True, "active_share": 0.03, "seconds": 1.0}  # fmt: skip


@pytest.mark.usefixtures("needs_mace")
def test_scores_are_a_dict_that_prints_as_a_table(base):
    scores = evaluate(base, frames())
    assert json.loads(json.dumps(scores)) == scores == pickle.loads(pickle.dumps(scores))
    lines = [words.split() for words in str(scores).splitlines()]
    assert lines[0][:3] == ["number", "energy", "MAE,"]
    by_name = {words[0]: words for words in lines if words}
    assert by_name["all"][1:3] == ["4", f"{scores['energy_mae_mev_atom']:.3f}"]
    assert by_name["H"][1] == str(scores["per_element"]["H"]["n_atoms"])
    assert by_name["[bold]"][1] == "1"
    shown = scores._repr_mimebundle_()
    assert shown["text/plain"] == str(scores)
    assert "<pre" in shown["text/html"]
    said = []
    scores._repr_pretty_(types.SimpleNamespace(text=said.append), False)  # IPython's, before that of a dict
    assert said == [str(scores)]


def test_a_history_prints_its_first_best_and_last_epochs_and_why_the_best_is():
    losses = [3.0 - 0.01 * n if n <= 37 else 3.0 for n in range(1, 101)]
    history = History([line(n, loss) for n, loss in enumerate(losses, 1)], None, 37, start_loss=4.0)
    text = str(history)
    epochs = [words.split()[0] for words in text.splitlines() if words.strip()[:1].isdigit()]
    assert {"1", "37", "100"} <= set(epochs)
    assert len(epochs) in (ROWS, ROWS + 1)
    assert "37 best" in text
    assert "lowest validation loss" in " ".join(text.split())
    assert "no epoch could be the best" in " ".join(str(History([], None, 0)).split())


class Stream:
    """Standard error that may be a terminal."""

    def __init__(self, is_terminal):
        self.is_terminal, self.text = is_terminal, ""

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_fit_shows_its_progress_on_a_terminal_unless_told_not_to(base, is_terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for progress in (True, False):
        stream = Stream(is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        config = FitConfig(epochs=1, check_units=False)
        fit(sparsify(base, SparseDelta(), [1, 6, 8]), frames(), frames(), config, progress=progress)
        assert ("epoch    1/1" in stream.text) == (is_terminal and progress)
        assert bool(stream.text) == (is_terminal and progress)


def test_a_notebook_has_one_line_that_changes(monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown[-1] = content["text/plain"]

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return Handle()

    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    with shown_progress(2) as progress:
        progress.say("a word")
        for epoch in (1, 2):
            progress.step(epoch - 1, 1, 1, 0.5)
            progress.epoch(line(epoch, 0.5), epoch)
    assert len(shown) == 1
    assert shown[0].splitlines()[0] == "a word"
    assert shown[0].splitlines()[1].startswith("epoch    2/2")
