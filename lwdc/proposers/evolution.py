"""Regularised evolution: the youngest architectures breed, and the oldest die."""

from lwdc.errors import SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.history import Trial
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class Evolution(Proposer):
    """Mutates the winners of tournaments among the last ``population`` trials.

    The first ``population`` architectures are drawn at random. Real, Aggarwal, Huang, Le: Regularized Evolution for
    Image Classifier Architecture Search, AAAI 2019, Algorithm 1; that a mutation changes one or two decisions and that
    networks are held within bounds is ours.
    """

    def __init__(
        self,
        menu: Menu,
        *,
        score: Score = kept,
        reference: float = 1.0,
        seed: int = 0,
        population: int = 20,
        tournament: int = 5,
    ) -> None:
        if population < 2 or not 1 <= tournament <= population:
            raise SpaceError(
                f"evolution needs a population from 2 on and a tournament of 1 to as many, found {population} and "
                f"{tournament}."
            )
        super().__init__(menu, score, reference, seed)
        self.population, self.tournament = population, tournament
        self.begin = population

    def propose(self) -> Code | None:
        living = self.history.bounded[-self.population :]
        if len(living) + len(self.history.pending) >= self.population and living:
            for _ in range(_MUTATIONS):
                code = self.history.menu.vary(self._parent(living).code, self.rng.choice((1, 2)), self.rng)
                if code is not None and not self.history.is_known(code):
                    return code
        return draw_unknown(self.history, self.rng)

    def _parent(self, living: list[Trial]) -> Trial:
        return max(self.rng.sample(living, min(self.tournament, len(living))), key=lambda trial: trial.score)


_MUTATIONS = 100  # tries, before a new architecture is drawn instead
