"""What each process of tests/test_processes.py does: trainings of small models, whose results the first one writes."""

import dataclasses
import itertools
import pathlib
import sys

import torch
import torch.distributed as dist

from models import crystal, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, evaluate, fit, load, refit_e0, sparsify, unfreeze
from pathtune.data import Frames, from_atoms
from pathtune.guidance import choose_share
from pathtune.processes import world


def mixed():
    """Molecules of 3 to 9 atoms and crystals; every third lacks its energy, every fourth its forces; weights differ."""
    frames = labelled([molecule(i, n=3 + (5 * i) % 7) for i in range(9)])
    frames += labelled([crystal(0), crystal(1)], stress=True)
    for k, atoms in enumerate(frames[:9]):
        if k % 3 == 0:
            del atoms.info["REF_energy"]
        elif k % 4 == 0:
            del atoms.arrays["REF_forces"]
    structures = [from_atoms(atoms) for atoms in frames]
    structures[1].weight = 3.0
    return Frames(structures)


def trained(model, train, config, **options):
    history = fit(model, train, train, config, **options)
    losses = torch.tensor([[line["train_loss"], line["valid_loss"]] for line in history.epochs], dtype=torch.float64)
    indices = [d.indices for part in model.adaptation.parts() for d in getattr(part, "deltas", [])]
    return [*(p.detach().clone() for p in model.trainable()), *indices, model.e0.clone(), losses]


def scenarios():
    """By name, the tensors that a training ends with."""
    base = load(tiny_mace())
    data, config = mixed(), FitConfig(epochs=3, batch_size=4, lr=0.02, check_units=False)
    delta = SparseDelta(active_share=0.1, by_step=7, regrow=0.1)
    yield "narrowed and regrown", lambda: trained(sparsify(base, delta), data, config)
    yield "by atoms", lambda: trained(sparsify(base, delta), data, dataclasses.replace(config, batch_atoms=25))
    scored = SparseDelta(active_share=0.1, initial_share=0.3, score="fisher", by_step=5)
    yield "scored", lambda: trained(sparsify(base, scored), data, config)
    yield "full", lambda: trained(unfreeze(base, "full"), data, config)
    yield "in the Kronecker basis", lambda: trained(adapt(base, ["kron"]), data, config)
    yield "pulled", lambda: trained(adapt(base, ["sparse", "pull"]), data, config)
    alone = dataclasses.replace(config, batch_size=5)  # 11 structures: the last step has one, and idle processes
    yield "idle", lambda: trained(sparsify(base, delta), data, alone)
    yield "replayed", lambda: trained(sparsify(base, delta), data, config, replay=Frames([data.read(2)]))


def scores():
    """Errors and E0 of the untrained model, as one flat list."""
    base = load(tiny_mace())
    refitted, _ = refit_e0(base, mixed(), batch_size=3)
    found = evaluate(refitted, mixed(), batch_size=2)
    choice = choose_share(refitted, mixed(), mixed(), config=FitConfig(epochs=4, check_units=False), shares=(0.1, 0.5))
    values = [found["energy_mae_mev_atom"], found["forces_rmse_mev_a"], found["per_element"]["C"]["forces_mae_mev_a"],
              found["per_config_type"]["Default"]["stress_mae_gpa"], *choice.points[0].losses]  # fmt: skip
    return [torch.tensor(values, dtype=torch.float64), refitted.e0]


def refusals():
    """Sentences that every process must raise alike, of faults that only the last process has."""
    base, data = load(tiny_mace()), mixed()
    config = FitConfig(epochs=1, batch_size=4, check_units=False, refit_e0=False, refit_e0_last=False)
    is_last = world().rank == world().size - 1

    class Bad(Frames):
        """Reads well until it is trained on; one process cannot read one frame."""

        is_bad = False

        def read(self, i):
            if self.is_bad and is_last and i < len(self):
                raise InputError("shard 7: structures 0 to 255 are damaged")
            return super().read(i)

    bad = Bad(list(data))

    def corrupt():
        model = sparsify(base)
        original = model.adaptation.state
        model.adaptation.state = lambda: (setattr(bad, "is_bad", True), original())[1]  # from the first validation on
        fit(model, bad, data, config)

    yield corrupt
    yield lambda: fit(sparsify(base), data if is_last else Frames(list(data)[1:]), data, config)
    yield lambda: fit(sparsify(base), data, data, dataclasses.replace(config, epochs=2 if is_last else 1))
    yield lambda: fit(sparsify(base), data, data, dataclasses.replace(config, batch_size=1))
    yield lambda: world().first(lambda: 1 / 0)
    yield lambda: world().share([lambda: world().size, lambda: 1 / 0])


def main(out, is_short):
    size = world().size
    yielded = itertools.islice(scenarios(), 1) if is_short else scenarios()
    result = {name: make() for name, make in yielded}
    if not is_short:
        result["scores"] = scores()
    shared = world().share([lambda k=k: (k, world().size, dist.is_initialized() and dist.get_rank()) for k in range(5)])
    sentences = []
    for refused in refusals() if size > 1 else ():
        try:
            refused()
            sentences.append("nothing was refused")
        except InputError as error:
            sentences.append(str(error))
    everyone = world().gather(lambda: sentences)
    if world().is_first:
        torch.save({"tensors": result, "sentences": everyone, "shared": shared}, out)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(pathlib.Path(sys.argv[1]), len(sys.argv) > 2)
    dist.destroy_process_group()
