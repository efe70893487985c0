"""What every search by scores promises: it proposes architectures and learns from what they cost and score."""

import abc
import random
from typing import Any, Protocol

from lwdc.architecture import Architecture
from lwdc.errors import TrainingError
from lwdc.proposers.history import History, random_state, set_random_state
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.scores import Score
from lwdc.records import EmbeddingRecord


class Proposer(abc.ABC):
    """Asks for architectures to be evaluated. It knows nothing of images, and evaluates nothing.

    What it asks for is a function of its arguments, its seed and what it was told, in that order. All that it asks for
    keeps the menu's bounds, and nothing is asked for twice.

    A search gives ``propose``. One that knows more than its ``history`` and its generator ``rng`` has that in its
    state, too; one that has a model overrides ``predict``, and ``picture`` if that embeds architectures.
    """

    begin = 0  # architectures that are drawn at random before it has anything to go by

    def __init__(self, menu: Menu, score: Score, reference: float, seed: int) -> None:
        self.history = History(menu, score, reference)
        self.rng = random.Random(seed)

    @abc.abstractmethod
    def propose(self) -> Code | None:
        """The next architecture to ask for, of which nothing is known; None where it knows of none."""

    def ask(self, count: int) -> list[Architecture]:
        """Up to ``count`` architectures, best first; fewer, or none, where it knows of no others.

        Raises ``TrainingError`` if what it proposes is none of the menu's, exceeds a bound or is known already.
        """
        found: list[Architecture] = []
        while len(found) < count and (code := self.propose()) is not None:
            self._check(code)
            found.append(self.history.propose(code))  # noted before the next is looked for
        return found

    def _check(self, code: Any) -> None:
        menu, rule = self.history.menu, ""
        whole = isinstance(code, tuple) and len(code) == len(menu.counts) and all(isinstance(k, int) for k in code)
        if not whole or not all(0 <= k < count for k, count in zip(code, menu.counts, strict=True)):
            rule = (
                f"a code is a tuple of {len(menu.counts)} whole numbers, each an index below its one of {menu.counts}"
            )
        elif not menu.keeps(code):
            rule = "it exceeds a bound on costs: menu.keeps tells, and menu.within makes it cheaper"
        elif self.history.is_known(code):
            rule = "it was asked for or told before: history.is_known tells"
        if rule:
            raise TrainingError(f"{type(self).__name__}.propose gave {code!r:.200}; {rule}.")

    def tell(self, architecture: Architecture, accuracy: float | None, share: float) -> None:
        """What an architecture scored and cost, whether it was asked for or not; an accuracy of None: it failed.

        ``accuracy`` lies in [0, 1], ``share`` is the cost as a share of the original's. Raises ``TrainingError`` on
        other figures and ``ArchitectureError`` on an architecture of another space.
        """
        self.history.tell(architecture, accuracy, share)

    def predict(self, architecture: Architecture) -> float | None:
        """The accuracy that it expects, from what it was told so far; None where it has no model of it."""
        del architecture
        return None

    def picture(self) -> EmbeddingRecord | None:
        """What it has learned of the space, if it learns an embedding of it."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on as if nothing had happened, as tensors and plain data."""
        return {"history": self.history.state_dict(), "random": random_state(self.rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in place."""
        self.history.load_state_dict(state["history"])
        set_random_state(self.rng, state["random"])


class ProposerFactory(Protocol):
    """Builds a proposer once a run knows its space, its score and the accuracy of its original network."""

    def __call__(self, menu: Menu, *, score: Score, reference: float, seed: int) -> Proposer: ...
