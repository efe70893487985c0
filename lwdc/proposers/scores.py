"""Scores: one number for an architecture, from its accuracy and its cost; larger is better."""

from typing import Protocol, TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


class Score(Protocol):
    """Of the accuracy relative to the original's, and the share of its cost.

    Plain arithmetic, so that it takes tensors as well, number by number: some searches follow its gradient.
    """

    def __call__(self, relative: Number, share: Number, /) -> Number: ...


def kept(relative: Number, share: Number) -> Number:
    """The accuracy alone, for searches within a budget."""
    del share
    return relative


def compression(relative: Number, share: Number) -> Number:
    """``C (2 - C) A / A_0`` with ``C = 1 - share``: N2N's reward, which ESNAC's code uses with parameters as the cost.

    That Architecture Compression descends on it as well is a guess of ours.
    """
    saved = 1 - share
    return saved * (2 - saved) * relative
