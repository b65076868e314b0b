"""Tune the shipped model to glycine at another level of theory. Needs mace-torch, no network; about half a minute.

python examples/molecule.py    # writes glycine.safetensors
"""

import pathtune

base = pathtune.load("demo")
train, valid, test = (pathtune.demo_file(name) for name in ("train", "valid", "test"))
model = pathtune.sparsify(base, pathtune.SparseDelta(active_share=0.03), elements=[1, 6, 7, 8])
pathtune.fit(model, train, valid, pathtune.FitConfig(epochs=40))
before = pathtune.evaluate(pathtune.refit_e0(base, train)[0], test)
after = pathtune.evaluate(model, test)
print(f"force error {before['forces_mae_mev_a']:.0f} -> {after['forces_mae_mev_a']:.0f} meV/A")
pathtune.save_adapter(model, "glycine.safetensors")
