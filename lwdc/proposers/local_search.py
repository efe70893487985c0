"""Local search: the best change of a single decision, again and again."""

import random
from typing import Any

from lwdc.architecture import Architecture
from lwdc.errors import SpaceError
from lwdc.proposers.history import History, random_state, set_random_state
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class LocalSearch:
    """Asks for the neighbours of the best architecture, in random order, and moves on once one is better.

    It begins with a few drawn at random. When all neighbours of the best are known it goes on with those of the next
    best. White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search, UAI 2021, Section 3,
    where all neighbours are evaluated before the next step and a local optimum ends the search; bounds are ours.
    """

    def __init__(
        self, menu: Menu, *, score: Score = kept, reference: float = 1.0, seed: int = 0, begin: int = 10
    ) -> None:
        if begin < 0:
            raise SpaceError(f"local search begins with a number of random architectures from 0 on, found {begin}.")
        self.history = History(menu, score, reference)
        self.begin = begin
        self._rng = random.Random(seed)

    def ask(self, count: int) -> list[Architecture]:
        return self.history.propose_up_to(count, self._next)

    def tell(self, architecture: Architecture, accuracy: float | None, share: float) -> None:
        self.history.tell(architecture, accuracy, share)

    def predict(self, architecture: Architecture) -> None:
        del architecture  # It has no model of any.

    def picture(self) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.state_dict(), "random": random_state(self._rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        set_random_state(self._rng, state["random"])

    def _next(self) -> Code | None:
        known = len(self.history.trials) + len(self.history.pending)
        if known >= self.begin:
            for trial in self.history.best(len(self.history.trials)):
                unknown = [c for c in self.history.menu.neighbours(trial.code) if not self.history.is_known(c)]
                if unknown:
                    return self._rng.choice(unknown)
        return draw_unknown(self.history, self._rng)
