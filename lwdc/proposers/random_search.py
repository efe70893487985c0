"""Random search: the control that every search owes."""

import random

from lwdc.proposers.base import Proposer
from lwdc.proposers.history import History
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.scores import Score, kept


class RandomSearch(Proposer):
    """Asks for architectures drawn at random, whatever it is told."""

    def __init__(self, menu: Menu, *, score: Score = kept, reference: float = 1.0, seed: int = 0) -> None:
        super().__init__(menu, score, reference, seed)

    def propose(self) -> Code | None:
        return draw_unknown(self.history, self.rng)


def draw_unknown(history: History, rng: random.Random) -> Code | None:
    """An architecture at random of which nothing is known; None if none is found in many draws."""
    for _ in range(_DRAWS):
        code = history.menu.draw(rng)
        if code is not None and not history.is_known(code):
            return code
    return None


_DRAWS = 1000
