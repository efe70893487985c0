"""What every search by scores promises: it proposes architectures and learns from what they cost and score."""

from typing import Any, Protocol

from lwdc.architecture import Architecture
from lwdc.proposers.history import History
from lwdc.proposers.menu import Menu
from lwdc.proposers.scores import Score
from lwdc.records import EmbeddingRecord


class Proposer(Protocol):
    """Asks for architectures to be evaluated. It knows nothing of images, and evaluates nothing.

    What it asks for is a function of its arguments, its seed and what it was told, in that order. All that it asks for
    keeps the menu's bounds, and nothing is asked for twice.
    """

    history: History

    def ask(self, count: int) -> list[Architecture]:
        """Up to ``count`` architectures, best first; fewer, or none, where it knows of no others."""

    def tell(self, architecture: Architecture, accuracy: float | None, share: float) -> None:
        """What an architecture scored and cost, whether it was asked for or not; an accuracy of None: it failed.

        ``accuracy`` lies in [0, 1], ``share`` is the cost as a share of the original's. Raises ``TrainingError`` on
        other figures and ``ArchitectureError`` on an architecture of another space.
        """

    def predict(self, architecture: Architecture) -> float | None:
        """The accuracy that it expects, from what it was told so far; None where it has no model of it."""

    def picture(self) -> EmbeddingRecord | None:
        """What it has learned of the space, if it learns an embedding of it."""

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on as if nothing had happened, as tensors and plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in place."""


class ProposerFactory(Protocol):
    """Builds a proposer once a run knows its space, its score and the accuracy of its original network."""

    def __call__(self, menu: Menu, *, score: Score, reference: float, seed: int) -> Proposer: ...
