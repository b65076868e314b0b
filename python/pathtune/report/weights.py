"""Panels of the change of weights, of what `pathtune.importance` returns."""

from __future__ import annotations

from typing import Any

from pathtune.importance import Importance
from pathtune.importance.parts import REST
from pathtune.report.panels import COUNT, NUMBER, PERCENT, TEXT, number, panel, percent, table

NOT_ELECTRONS = "l is the angular order of features around an atom, not its electrons."


def weight_panels(found: Importance) -> list[dict[str, Any]]:
    """All of them that this model has."""
    panels = [shapley_panel(found), map_panel(found), rates_panel(found)]
    if found.elements:
        panels.append(elements_panel(found))
    return [*panels, surroundings_panel(found)]


def shapley_panel(found: Importance) -> dict[str, Any]:
    """Exact Shapley shares beside shares of the weights."""
    rows = [
        {
            "group": g.group,
            "shapley_share": g.shapley_share,
            "changed_share": g.changed_share,
            "reachable_share": g.reachable / max(1, sum(x.reachable for x in found.groups)),
        }
        for g in found.groups
    ]
    said = ", ".join(f"{r['group']} {percent(r['shapley_share'])}" for r in rows)
    columns = [
        ("group", TEXT),
        ("Shapley value", NUMBER),
        ("Shapley share", PERCENT),
        ("rise if left out", NUMBER),
        ("integrated share", PERCENT),
    ]
    cells = [[g.group, g.shapley, g.shapley_share, g.left_out, g.integrated_share] for g in found.groups]
    counted = [("group", TEXT), ("changed", COUNT), ("reachable", COUNT), ("share of changed", PERCENT)]
    counts = [[g.group, g.changed, g.reachable, g.changed_share] for g in found.groups]
    notes = [
        f"Tuning took {number(found.removed)} off a loss of {number(found.loss_base)} on these "
        f"{found.n_structures} structures; Shapley values divide that among the groups, from {len(found.coalitions)} "
        "losses, without sampling.",
        "Importance describes the adapter, not the physics of the data: what l = 2 alone should "
        "do is often done by l = 0. " + NOT_ELECTRONS,
    ]
    if found.removed <= 0:
        notes.append("Tuning took nothing off the loss here, so there are no shares.")
    if any(g.group == "rest" for g in found.groups):
        notes.append("rest: weights that belong to no single l, such as radial networks, contractions and gates.")
    figure = {"kind": "shapley", "alt": f"Exact Shapley share of the loss taken off: {said}.", "rows": rows}
    return panel(
        "shapley",
        "Importance by degree l",
        "The first bar is the part of the loss taken off that is due to the weights of this l; "
        "where it differs from the "
        "share of the weights, weights were spent where they did little.",
        figure,
        [table("Importance by degree", columns, cells), table("Weights by degree", counted, counts)],
        notes,
    )


def map_panel(found: Importance) -> dict[str, Any]:
    """Integrated gradients of each layer and group; hidden where they do not add up."""
    title = "Importance by layer and path"
    how = (
        "A cell is the share of the loss taken off that integrated gradients give to a layer's weights of one l; "
        "the cells add up to 100 %, and a negative one worked against the rest."
    )
    checked = (
        f"Checked: the shares add up to {percent(found.completeness)} of the loss taken off, with {found.nodes} nodes"
    )
    if not found.is_complete:
        note = (
            f"Hidden: with {found.nodes} nodes the shares add up to {percent(found.completeness)}, "
            "expected 95 to 105 %."
        )
        return panel("map", title, how, None, (), [note])
    groups = [g.group for g in found.groups]
    layers = list(dict.fromkeys(p.layer for p in found.parts))
    cells: dict[tuple[str, str], float] = {}
    for p in found.parts:
        cells[p.layer, p.group] = cells.get((p.layer, p.group), 0.0) + (p.integrated_share or 0.0)
    values = [[cells.get((layer, group)) for group in groups] for layer in layers]
    top = max(cells, key=lambda key: cells[key])
    alt = f"Shares by layer and l; the largest is {percent(cells[top])}, of {top[1]} in {top[0]}."
    columns = [
        ("layer", TEXT),
        ("path", TEXT),
        ("group", TEXT),
        ("share", PERCENT),
        ("changed", COUNT),
        ("reachable", COUNT),
        ("rms change / rms weight", PERCENT),
    ]
    rows = [
        [p.layer, p.path, p.group, p.integrated_share, p.changed, p.reachable, p.relative_change] for p in found.parts
    ]
    figure = {"kind": "map", "alt": alt, "layers": layers, "groups": groups, "values": values}
    notes = [checked + ".", "Layers have the model's own names, in the order in which it computes them."]
    return panel("map", title, how, figure, [table("Every path", columns, rows)], notes)


def rates_panel(found: Importance) -> dict[str, Any]:
    """Rates of changed weights beside those that the base's Fisher information predicts."""
    title = "Where the budget went"
    how = (
        "Each point is a path: the share of its reachable weights that was changed, against the share that the base's "
        "Fisher information predicts; near the line the pattern was there before training and says nothing new."
    )
    line = found.rate_line
    if line is None:
        why = "Every weight was changed, or too few paths have one that was: there is no pattern of counts to show."
        return panel("rates", title, how, None, (), [why])
    shown = [p for p in found.parts if p.rate and p.predicted_rate]
    points = [
        {"layer": p.layer, "path": p.path, "group": p.group, "rate": p.rate, "predicted": p.predicted_rate}
        for p in shown
    ]
    notes = [
        f"Correlation of the logarithms over {line.n_parts} paths: {line.correlation:.2f}; the line, of slope "
        f"{line.slope:.2f}, is fitted to these points.",
        "Counts follow the training rule: other rules on the same data count differently. They "
        "are no evidence for physics.",
    ]
    alt = (
        f"Rates against predicted rates of {len(shown)} paths; the correlation of their logarithms is "
        f"{line.correlation:.2f}."
    )
    columns = [("layer", TEXT), ("path", TEXT), ("rate", PERCENT), ("predicted", PERCENT)]
    rows = [[p.layer, p.path, p.rate, p.predicted_rate] for p in found.parts if p.rate is not None]
    return panel(
        "rates",
        title,
        how,
        {"kind": "rates", "alt": alt, "points": points},
        [table("Rates by path", columns, rows)],
        notes,
    )


def elements_panel(found: Importance) -> dict[str, Any]:
    """Species linears: element x l, with what could be reached."""
    names = list(dict.fromkeys(row.element for row in found.elements))
    groups = list(dict.fromkeys(row.group for row in found.elements))
    cells = {(row.element, row.group): row for row in found.elements}
    pairs = [[cells.get((name, group)) for group in groups] for name in names]
    values = [[None if row is None else row.rate for row in line] for line in pairs]
    top = max(found.elements, key=lambda row: row.rate or 0.0)
    columns = [
        ("element", TEXT),
        ("group", TEXT),
        ("changed", COUNT),
        ("reachable", COUNT),
        ("rate", PERCENT),
        ("predicted", PERCENT),
        ("integrated share", PERCENT),
    ]
    rows = [
        [r.element, r.group, r.changed, r.reachable, r.rate, r.predicted_rate, r.integrated_share]
        for r in found.elements
    ]
    notes = [
        "predicted: the rate that the base's Fisher information gives before any training. integrated share: of the "
        "loss taken off, as in the map of layers."
    ]
    return panel(
        "elements",
        "Element by degree",
        "A cell is the share of an element's reachable weights of this l, in the layers that "
        "have weights of their own for "
        "each element, that was changed; elements that the data lack cannot change and are not shown.",
        {
            "kind": "elements",
            "alt": f"Rates by element and l; the largest is {percent(top.rate)}, of {top.element}, {top.group}.",
            "elements": names,
            "groups": groups,
            "values": values,
        },
        [table("Element by degree", columns, rows)],
        notes,
    )


def surroundings_panel(found: Importance) -> dict[str, Any]:
    """What the structures offer to each l, and what the base had there before training."""
    fisher = {g.group: g.fisher_share for g in found.groups}
    order = {f"l = {k}": (mean, spread) for k, mean, spread in found.anisotropy}
    names = [g for g in {*fisher, *order} if fisher.get(g) is not None or g in order]
    names.sort(key=lambda name: (name == REST, name))
    rows = [
        {
            "group": g,
            "fisher_share": fisher.get(g),
            "order": order.get(g, (None, None))[0],
            "order_spread": order.get(g, (None, None))[1],
        }
        for g in names
    ]
    said = ", ".join(f"{r['group']} {number(r['order'])}" for r in rows if r["order"] is not None)
    columns = [("group", TEXT), ("Fisher share of the base", PERCENT), ("anisotropy q", NUMBER), ("its spread", NUMBER)]
    return panel(
        "surroundings",
        "What the structures offer",
        "Context that no training made: the base's Fisher information of each l on these "
        "structures, and how anisotropic "
        "the surroundings of their atoms are (0: isotropic to this l, 1: a single neighbour).",
        {"kind": "surroundings", "alt": f"Mean anisotropy of the surroundings: {said}.", "rows": rows},
        [
            table(
                "Surroundings", columns, [[r["group"], r["fisher_share"], r["order"], r["order_spread"]] for r in rows]
            )
        ],
    )
