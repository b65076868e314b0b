"""Training of a spin layer alone, on energies and magforces: the frozen backbone is computed once for each batch."""

import types

import schedulefree
import torch

import pathtune
from pathtune.atomic_energies import energy_error
from pathtune.data import batches, batches_of
from pathtune.model import Prediction


def kept(model, source, size):
    """For each batch of consecutive frames: it, its plain energies, and what the layer is a function of."""
    chunks = [range(k, min(k + size, len(source))) for k in range(0, len(source), size)]
    return [model.final_features(batch) for batch in batches_of(model, source, chunks)]


def loss_of(model, layer, piece, config, scale):
    """Of one batch, with a graph."""
    plain, (features, edges, batch) = piece
    label = batch.labels["magmom"]
    moments = label.value.detach().requires_grad_()
    batch.labels["magmom"] = type(label)(moments, label.mask)
    energies = layer(features, edges, batch)
    (slope,) = torch.autograd.grad(energies.sum(), moments, create_graph=True)
    total = plain.interaction_energy.detach().index_add(0, batch.node_graph, energies)
    found = Prediction({"energy": total, "magforces": -slope}, model.e0_energy(batch), model.adaptation.comparisons())
    return config.loss_of(found, batch, scale)


def fit(model, train, valid, config):
    """As pathtune.fit, for a model of one spin layer, without forces, with batches of the same frames in each epoch."""
    refitted, _ = pathtune.refit_e0(model, train)
    model.set_e0(refitted.e0)
    spin = model.adaptation.parts()[0]
    spin.begin(model, batches(model, train, 1), None)
    scale = config.scale_of(model, train)
    layer, parameters = spin.energy_term(), model.trainable()
    pieces, checks = kept(model, train, config.batch_size), kept(model, valid, config.batch_size)
    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    lines, best, state = [], 0, model.adaptation.state()
    for epoch in range(config.epochs):
        optimizer.train()
        for k in torch.randperm(len(pieces), generator=generator).tolist():
            optimizer.zero_grad()
            loss_of(model, layer, pieces[k], config, scale).backward(inputs=parameters)
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
        optimizer.eval()
        values = [float(loss_of(model, layer, p, config, scale).detach()) * p[1][2].n_graphs for p in checks]
        lines.append({"epoch": epoch + 1, "valid_loss": sum(values) / len(valid)})
        if epoch == 0 or lines[-1]["valid_loss"] < lines[best - 1]["valid_loss"]:
            best, state = epoch + 1, model.adaptation.state()
    model.adaptation.restore(state)
    refitted, _ = pathtune.refit_e0(model, train, huber_delta=config.huber_delta)
    if energy_error(refitted, valid) <= energy_error(model, valid):
        model.set_e0(refitted.e0)
    return types.SimpleNamespace(epochs=lines, best_epoch=best)
