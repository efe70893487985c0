"""Scores: one number for an architecture, from its accuracy and its cost; larger is better."""

from collections.abc import Callable

Score = Callable[[float, float], float]  # of the accuracy relative to the original's, and the share of its cost


def kept(relative: float, share: float) -> float:
    """The accuracy alone, for searches within a budget."""
    del share
    return relative


def compression(relative: float, share: float) -> float:
    """``C (2 - C) A / A_0`` with ``C = 1 - share``: N2N's reward, which ESNAC's code uses with parameters as the cost.

    That Architecture Compression descends on it as well is a guess of ours.
    """
    saved = 1 - share
    return saved * (2 - saved) * relative
