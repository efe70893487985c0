"""Random search: the control that every search owes."""

import random
from typing import Any

from lwdc.architecture import Architecture
from lwdc.proposers.history import History, random_state, set_random_state
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.scores import Score, kept


class RandomSearch:
    """Asks for architectures drawn at random, whatever it is told."""

    def __init__(self, menu: Menu, *, score: Score = kept, reference: float = 1.0, seed: int = 0) -> None:
        self.history = History(menu, score, reference)
        self._rng = random.Random(seed)

    def ask(self, count: int) -> list[Architecture]:
        return self.history.propose_up_to(count, lambda: draw_unknown(self.history, self._rng))

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


def draw_unknown(history: History, rng: random.Random) -> Code | None:
    """An architecture at random of which nothing is known; None if none is found in many draws."""
    for _ in range(_DRAWS):
        code = history.menu.draw(rng)
        if code is not None and not history.is_known(code):
            return code
    return None


_DRAWS = 1000
