"""Local search: changes of a decision, or of two at once, around the best so far, again and again."""

from lwdc.errors import SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class LocalSearch(Proposer):
    """Asks for what lies around the best architecture, in random order, and moves on once one is better.

    That are its neighbours, which differ at one decision, and under bounds some exchanges, which differ at two, one of
    them dearer than before: at a bound hardly anything else leads on. It begins with a few drawn at random.
    When all that is found around the best is known it goes on with the next best. White, Nolen, Savani: Exploring the
    Loss Landscape in Neural Architecture Search, UAI 2021, Section 3, where all neighbours are evaluated before the
    next step and a local optimum ends the search; bounds and exchanges are ours.
    """

    def __init__(
        self, menu: Menu, *, score: Score = kept, reference: float = 1.0, seed: int = 0, begin: int = 10
    ) -> None:
        if begin < 0:
            raise SpaceError(f"local search begins with a number of random architectures from 0 on, found {begin}.")
        super().__init__(menu, score, reference, seed)
        self.begin = begin

    def propose(self) -> Code | None:
        known = len(self.history.trials) + len(self.history.pending)
        if known >= self.begin:
            for trial in self.history.best(len(self.history.trials)):
                unknown = [c for c in self._around(trial.code) if not self.history.is_known(c)]
                if unknown:
                    return self.rng.choice(unknown)
        return draw_unknown(self.history, self.rng)

    def _around(self, code: Code) -> list[Code]:
        """Its neighbours, and about as many of its exchanges where there are bounds, if so many are found."""
        menu = self.history.menu
        neighbours = menu.neighbours(code)
        if not any(bound is not None for bound in menu.bounds):
            return neighbours
        drawn = (menu.exchange(code, self.rng) for _ in range(_TRIES))
        found = dict.fromkeys(other for other in drawn if other is not None)
        return [*neighbours, *list(found)[: max(len(neighbours), _EXCHANGES)]]


_TRIES, _EXCHANGES = 400, 20  # to find exchanges; of these at most, or as many as neighbours
