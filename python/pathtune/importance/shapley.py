"""Exact Shapley values of groups of weights in the loss that tuning took off.

    v(S) = L(W) - L(W with the tuned weights of the groups in S)
    phi_g = sum over S without g of |S|! (n - |S| - 1)! / n! (v(S with g) - v(S))

L is the validation loss, S a set of groups, n their number: 2^n losses, no sampling. The values sum to
L(W) - L(W'). Shapley, A value for n-person games (1953); for groups of inputs of a model: Lundberg and Lee, NeurIPS
2017 (arXiv:1705.07874). Unlike leaving a group out, it divides fairly what two groups can only do together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

Coalition = frozenset[str]


def coalitions(players: Sequence[str]) -> list[Coalition]:
    """All sets of players, small ones first."""
    return [frozenset(s) for n in range(len(players) + 1) for s in itertools.combinations(players, n)]


def losses_of(players: Sequence[str], loss: Callable[[Coalition], float]) -> dict[Coalition, float]:
    """The loss of every set of players."""
    return {s: loss(s) for s in coalitions(players)}


def shapley_values(players: Sequence[str], losses: Mapping[Coalition, float]) -> dict[str, float]:
    """phi of each player, in units of the loss; positive where its change lowers the loss."""
    n = len(players)
    result = {}
    for player in players:
        others = [p for p in players if p != player]
        result[player] = math.fsum(_weight(len(s), n) * (losses[s] - losses[s | {player}]) for s in coalitions(others))
    return result


def left_out(players: Sequence[str], losses: Mapping[Coalition, float]) -> dict[str, float]:
    """How much the loss rises when the tuned weights of one group alone go back to the base's."""
    everyone = frozenset(players)
    return {player: losses[everyone - {player}] - losses[everyone] for player in players}


def _weight(size: int, n: int) -> float:
    return math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
