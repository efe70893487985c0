"""Regularised evolution: the youngest architectures breed, and the oldest die."""

import random
from typing import Any

from lwdc.architecture import Architecture
from lwdc.errors import SpaceError
from lwdc.proposers.history import History, Trial, random_state, set_random_state
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept


class Evolution:
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
        self.history = History(menu, score, reference)
        self.population, self.tournament = population, tournament
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
        living = self.history.bounded[-self.population :]
        if len(living) + len(self.history.pending) >= self.population and living:
            for _ in range(_MUTATIONS):
                code = self.history.menu.vary(self._parent(living).code, self._rng.choice((1, 2)), self._rng)
                if code is not None and not self.history.is_known(code):
                    return code
        return draw_unknown(self.history, self._rng)

    def _parent(self, living: list[Trial]) -> Trial:
        return max(self._rng.sample(living, min(self.tournament, len(living))), key=lambda trial: trial.score)


_MUTATIONS = 100  # tries, before a new architecture is drawn instead
