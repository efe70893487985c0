"""NSGA-II: many architectures at once, from accurate to cheap, none of which another beats in everything."""

import importlib.util
import random
from typing import TYPE_CHECKING, Any

from lwdc.architecture import Architecture
from lwdc.errors import LwdcError, SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept

if TYPE_CHECKING:
    import optuna


class Nsga2(Proposer):
    """Breeds for accuracy and against every cost of the menu, by Optuna's sampler; the score does not matter to it.

    So it is after a front (``history.front``), not after the best within a budget. Deb, Pratap, Agarwal, Meyarivan: A
    Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, IEEE Transactions on Evolutionary Computation, 2002.
    Children that exceed the bounds are made cheaper, those that are known are bred anew, and the first generation is
    drawn as random search draws: ours. Optuna rather than pymoo: its study can be made again from the trials at every
    question, so that the history is all the state there is.
    """

    def __init__(
        self, menu: Menu, *, score: Score = kept, reference: float = 1.0, seed: int = 0, population: int = 20
    ) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise LwdcError("nsga2 needs optuna, which is not installed: pip install 'lwdc[sweeps]'.")
        if population < 2:
            raise SpaceError(f"nsga2 needs a population from 2 on, found {population}.")
        super().__init__(menu, score, reference, seed)
        self.population = self.begin = population
        self._seed = seed
        self._asked: optuna.Study | None = None  # of the question that is being answered

    def ask(self, count: int) -> list[Architecture]:
        # Anew at every question: the state that is saved of it does not matter.
        self.rng = random.Random(f"{self._seed} {len(self.history.trials)} {len(self.history.pending)}")
        enough = len(self.history.bounded) >= self.population
        self._asked = self._study(self.rng.getrandbits(32)) if enough else None
        return super().ask(count)

    def propose(self) -> Code | None:
        menu = self.history.menu
        for _ in range(_CHILDREN if self._asked is not None else 0):
            assert self._asked is not None
            taken = self._asked.ask(_distributions(menu)).params
            code = menu.within(tuple(taken[str(index)] for index in range(len(menu.counts))), self.rng)
            if code is not None and not self.history.is_known(code):
                return code
        return draw_unknown(self.history, self.rng)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._seed = state["seed"]

    def _study(self, seed: int) -> "optuna.Study":
        """A study that knows all that was told within the bounds."""
        import optuna

        menu = self.history.menu
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of every study that begins
        try:
            up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
            directions = [up, *(down for _ in menu.tables)]
            study = optuna.create_study(directions=directions, sampler=_sampler(self.population, seed))
        finally:
            optuna.logging.set_verbosity(verbosity)
        for trial in self.history.bounded:
            assert trial.accuracy is not None
            params = {str(index): taken for index, taken in enumerate(trial.code)}
            costs = [float(menu.cost(trial.code, which)) for which in range(len(menu.tables))]
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=_distributions(menu), values=[trial.accuracy, *costs]
                )
            )
        return study


def _sampler(population: int, seed: int) -> "optuna.samplers.BaseSampler":
    from optuna import Study
    from optuna.samplers import NSGAIISampler
    from optuna.trial import FrozenTrial, TrialState

    class Generations(NSGAIISampler):
        """Takes the trials of a study, which were added to it, as generations in the order they were told in."""

        def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
            del trial  # All that is asked for follows all that was told.
            return len(_told(study)) // population

        def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            return _told(study)[generation * population : (generation + 1) * population]

    def _told(study: Study) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    return Generations(population_size=population, seed=seed)


def _distributions(menu: Menu) -> "dict[str, optuna.distributions.BaseDistribution]":
    from optuna.distributions import CategoricalDistribution

    return {str(index): CategoricalDistribution(range(count)) for index, count in enumerate(menu.counts)}


_CHILDREN = 100  # bred for one architecture, before it is drawn instead
