"""History: what has been asked for and told in one search, and what it was worth."""

import dataclasses
import math
import random
from typing import Any

from lwdc.architecture import Architecture
from lwdc.errors import TrainingError
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.scores import Score, kept


@dataclasses.dataclass(frozen=True)
class Trial:
    """One architecture that was evaluated."""

    code: Code
    accuracy: float | None  # None: the evaluation failed
    share: float  # its cost, as a share of the original's
    score: float  # -inf where the evaluation failed


class History:
    """All trials in the order told, and what is asked for and not told yet.

    ``reference`` is the accuracy of the original network, by which scores take accuracies.
    """

    def __init__(self, menu: Menu, score: Score = kept, reference: float = 1.0) -> None:
        self.menu, self.score, self.reference = menu, score, reference
        self.trials: list[Trial] = []
        self.pending: set[Code] = set()
        self._told: dict[Code, Trial] = {}

    def propose(self, code: Code) -> Architecture:
        """Note that this one is asked for; the architecture."""
        self.pending.add(code)
        return self.menu.decode(code)

    def is_known(self, code: Code) -> bool:
        """Whether it has been asked for or told: no search asks twice."""
        return code in self.pending or code in self._told

    def tell(self, architecture: Architecture, accuracy: float | None, share: float) -> Trial:
        """Add a trial, whether it was asked for or not. Raises ``TrainingError`` unless its figures are sound.

        An architecture that is told again replaces what was known of it.
        """
        code = self.menu.encode(architecture)
        if not math.isfinite(share) or share < 0 or not (accuracy is None or 0 <= accuracy <= 1):
            raise TrainingError(
                f"an evaluation gives an accuracy in [0, 1], or None where it failed, and a share of the cost; "
                f"found {accuracy} and {share}."
            )
        score = -math.inf if accuracy is None else self.score(accuracy / self.reference, share)
        trial = Trial(code, accuracy, share, score)
        if math.isnan(score) or score == math.inf:
            raise TrainingError(
                f"the score of an accuracy of {accuracy} at {share} of the cost is {score}, and must be a number below "
                "infinity: mend strategy.score."
            )
        if code in self._told:
            self.trials.remove(self._told[code])
        self.trials.append(trial)
        self._told[code] = trial
        self.pending.discard(code)
        return trial

    @property
    def scored(self) -> list[Trial]:
        """The trials whose evaluation succeeded, whatever they cost."""
        return [trial for trial in self.trials if trial.accuracy is not None]

    @property
    def bounded(self) -> list[Trial]:
        """Those of them that keep the bounds."""
        return [trial for trial in self.scored if self.menu.keeps(trial.code)]

    def best(self, count: int = 1) -> list[Trial]:
        """The trials with the largest scores among those within the bounds, best first; of equals the cheaper ones."""
        return sorted(self.bounded, key=lambda trial: (-trial.score, trial.share))[:count]

    def front(self) -> list[Trial]:
        """The trials within the bounds than which none is cheaper and as accurate, or as cheap and more accurate.

        They rise in cost and in accuracy; those with the same figures are all among them.
        """
        found: list[Trial] = []
        for trial in sorted(self.bounded, key=lambda trial: (trial.share, -(trial.accuracy or 0))):
            last = found[-1] if found else None
            same = last is not None and (trial.share, trial.accuracy) == (last.share, last.accuracy)
            if last is None or same or (trial.accuracy or 0) > (last.accuracy or 0):
                found.append(trial)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on, as plain data."""
        return {
            "trials": [[list(trial.code), trial.accuracy, trial.share] for trial in self.trials],
            "pending": [list(code) for code in sorted(self.pending)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in place."""
        self.trials, self._told = [], {}
        for code, accuracy, share in state["trials"]:
            self.tell(self.menu.decode(tuple(code)), accuracy, share)
        self.pending = {tuple(code) for code in state["pending"]}


def random_state(rng: random.Random) -> list[Any]:
    """The state of a generator, as plain data."""
    version, numbers, gauss = rng.getstate()
    return [version, list(numbers), gauss]


def set_random_state(rng: random.Random, state: list[Any]) -> None:
    """Go on from a saved state, in place."""
    version, numbers, gauss = state
    rng.setstate((version, tuple(numbers), gauss))
