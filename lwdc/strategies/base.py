"""What every search promises: a choice."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from lwdc.architecture import Architecture
from lwdc.training.fit import Lesson


class Chooser(Protocol):
    """Chooses among the architectures of ``supernet``, once the search is done."""

    supernet: nn.Module
    hard: bool  # one operator a step was trained, and no mixture

    def choice(self, bounds: Sequence[int | None] | None = None) -> Architecture:
        """The best architecture within the bounds that were asked for, or within others, one for every cost.

        Raises ``CostError`` if none keeps them.
        """

    def decidedness(self, architecture: Architecture) -> dict[str, float]:
        """Per site the probability of the architecture's operator."""


class SearchLesson(Lesson, Chooser, Protocol):
    """A lesson that trains the gates and afterwards chooses by them."""
