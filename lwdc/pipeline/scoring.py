"""The search by scores: a supernet trained by paths, then ask, evaluate and tell until the evaluations are spent."""

import contextlib
import copy
import dataclasses
import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lwdc.architecture import Architecture
from lwdc.candidates import label
from lwdc.costs import choose_within
from lwdc.errors import CheckpointError, CostError, Interrupted, TrainingError
from lwdc.evaluators import Evaluation, Subject
from lwdc.folders import typed
from lwdc.pipeline.correlating import correlate
from lwdc.pipeline.known import EVALUATIONS, Judge, Known
from lwdc.pipeline.prepare import PATHS, Prepared, load_search
from lwdc.pipeline.run import Run
from lwdc.pipeline.settings import ScoreSettings
from lwdc.proposers import History, Menu, Proposer
from lwdc.records import EvaluationRecord
from lwdc.strategies import PathLesson, search_fit
from lwdc.surgery import begin_with_prior, point_at
from lwdc.training import load_checkpoint, save_checkpoint


class ScoredChoice:
    """What a search by scores has found: the best of the architectures that it evaluated."""

    hard = True

    def __init__(self, supernet: nn.Module, history: History) -> None:
        self.supernet, self.history = supernet, history

    def choice(self, bounds: Sequence[int | None] | None = None) -> Architecture:
        """The best one within the bounds, or within others; the gates of the supernet then point at it."""
        menu = self.history.menu
        for trial in self.history.best(len(self.history.trials)):
            costs = [menu.cost(trial.code, which) for which in range(len(menu.tables))]
            if all(b is None or cost <= b for cost, b in zip(costs, bounds or menu.bounds, strict=True)):
                architecture = menu.decode(trial.code)
                point_at(self.supernet, architecture)
                return architecture
        raise CostError("none of the architectures that were evaluated keeps these bounds.")

    def decidedness(self, architecture: Architecture) -> dict[str, float]:
        """Scores decide wholly: 1 for every site."""
        return dict.fromkeys(architecture.choices, 1.0)


def train_paths(prepared: Prepared, run: Run, baseline: nn.Module, supernet: nn.Module) -> None:
    """Train the supernet by sampling paths, in place, or take up what was trained already. Of all ranks."""
    settings, path = prepared.settings, run.folder / PATHS
    if "paths" in run.done:
        supernet.load_state_dict(run.ranks.from_first(lambda: load_checkpoint(path))["state"])
        return
    seconds = 0.0
    if settings.searched is not None:
        load_search(supernet, settings.searched, PATHS)
        run.note(f"the supernet is that of {settings.searched}")
    else:
        teacher = copy.deepcopy(baseline) if settings.search.objective.needs_teacher else None
        # Every step runs other operators, and each combination of them would be compiled anew.
        execution = dataclasses.replace(settings.compute.execution, compile=False)
        fit = search_fit(
            supernet, settings.data, settings.search, PathLesson(supernet),
            phase="paths", seed=settings.seed, fabric=prepared.fabric, teacher=teacher,
            execution=execution,
        )  # fmt: skip
        seconds = run.train(fit)
    if run.ranks.first:
        save_checkpoint(path, {"state": supernet.state_dict()})
    run.finish("paths", seconds=seconds)


def search_by_scores(
    prepared: Prepared, run: Run, baseline: nn.Module, supernet: nn.Module
) -> tuple[ScoredChoice, dict[str, Any]]:  # fmt: skip
    """Search from where the checkpoint stands to the end, on one rank; also how many ``evaluations`` and ``seconds``.

    What is on the disk after every batch, with the evaluations known, is enough to go on as if nothing had happened.
    Raises ``TrainingError`` with the first cause if all evaluations fail, ``CheckpointError`` if the checkpoint is one
    of another space, and ``Interrupted`` after a signal.
    """
    scores = prepared.settings.scores
    assert scores is not None and prepared.menu is not None
    search = _Search(prepared.menu, scores, prepared, run, baseline, supernet)
    with search.interruptible():
        search.begin()
        while search.done < scores.evaluations and search.batch():
            pass
        search.end()
    chooser = ScoredChoice(supernet, search.proposer.history)
    return chooser, {"evaluations": search.done, "seconds": search.seconds}


class _Search:
    """The state of one search."""

    proposer: Proposer

    def __init__(
        self, menu: Menu, scores: ScoreSettings, prepared: Prepared, run: Run, baseline: nn.Module, supernet: nn.Module
    ) -> None:
        self.menu, self.scores, self.prepared, self.run = menu, scores, prepared, run
        settings = prepared.settings
        self.known = Known(run.folder / EVALUATIONS, _of_others(settings.searched, run.folder))
        self.subject = Subject(
            supernet, baseline, prepared.backbone.create, settings.data, settings.finetune, settings.seed,
            prepared.fabric,
        )  # fmt: skip
        self.judge = Judge(scores.evaluators[scores.evaluator], self.subject, self.known, scores.jobs)
        self.done = 0  # evaluations
        self.cause: str | None = None  # of the first failure
        self._before, self._clock = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Spent so far, also before an interruption."""
        return self._before + time.perf_counter() - self._clock

    def begin(self) -> None:
        """From the checkpoint, or from the original network, which is told first."""
        state = self.run.unfinished("search")
        if state is None and self.scores.correlate:
            correlate(self.prepared, self.run, self.menu, self.subject, self.known)
        original = self.menu.decode(self.menu.original)
        [(found, _)] = self.judge([original])
        if not found.accuracy:
            raise TrainingError(
                f"the original network, by which scores are taken, cannot be evaluated: "
                f"{found.error or 'it has nothing right'}."
            )
        self.proposer = self.prepared.proposer(found.accuracy)
        if state is not None:
            self._go_on(state)
            return
        self.run.note(
            f"{self.scores.evaluations} evaluations by evaluator {self.scores.evaluator!r}, under which the original "
            f"network has {found.accuracy:.1%} right"
        )
        if self.proposer.begin >= self.scores.evaluations:
            self.run.note(
                f"{self.scores.evaluations} evaluations make this a random search: it begins with "
                f"{self.proposer.begin} architectures at random. Raise strategy.evaluations, or lower the number in "
                "strategy.proposer.",
                "warning",
            )
        self.proposer.tell(original, found.accuracy, self.menu.share(self.menu.original))
        self._save()

    def batch(self) -> bool:
        """Ask, evaluate and tell once; False where nothing is proposed any more."""
        clock = time.perf_counter()
        self.prepared.seed(f"ask {self.done}")
        asked = [] if self.done else self._beginning()
        asked = asked or self.proposer.ask(min(self.scores.batch, self.scores.evaluations - self.done))
        predicted = [self.proposer.predict(architecture) for architecture in asked]
        each = (time.perf_counter() - clock) / max(len(asked), 1)
        if not asked:
            self.run.note(f"after {self.done} evaluations the strategy knows no other architecture within the bounds")
            return False
        for architecture, expected, (found, cached) in zip(asked, predicted, self.judge(asked), strict=True):
            self.prepared.seed(f"tell {self.done}")
            self._tell(architecture, expected, found, each, cached=cached)
        self._check_failures(at_end=self.done == self.scores.evaluations)
        if self._succeeded:  # what has failed from the beginning begins anew once its cause is gone
            self._save()
        return True

    def _beginning(self) -> list[Architecture]:
        """What keeps most of the trained layers within the bounds, if that is to be tried first."""
        if not self.prepared.has_beginning:
            return []
        supernet = copy.deepcopy(self.subject.supernet)  # whose own gates draw evenly
        begin_with_prior(supernet, self.prepared.settings.prior)
        kept = choose_within(supernet, self.prepared.bounded)
        return [] if self.menu.encode(kept) == self.menu.original else [kept]

    def end(self) -> None:
        """The last words: whether anything was found, and the picture of what was learned."""
        if not self.done:
            raise CostError("the strategy proposes no architecture within the bounds. Raise a budget.")
        self._check_failures(at_end=True)
        if (picture := self.proposer.picture()) is not None:
            self.run.write(picture)

    def _tell(
        self, architecture: Architecture, predicted: float | None, found: Evaluation, each: float, *, cached: bool
    ) -> None:  # fmt: skip
        share = self.menu.share(self.menu.encode(architecture))
        self.proposer.tell(architecture, found.accuracy, share)
        self.done += 1
        if self.cause is None:
            self.cause = found.error
        history = self.proposer.history
        trial, best = history.trials[-1], history.best()
        self.run.write(
            EvaluationRecord(
                index=self.done,
                evaluations=self.scores.evaluations,
                choices={site: label(choice) for site, choice in architecture.choices.items()},
                accuracy=found.accuracy,
                share=share,
                score=None if found.accuracy is None else trial.score,
                best=best[0].score if best else None,
                predicted=predicted,
                seconds=found.seconds,
                ask_seconds=each,
                cached=cached,
                error=found.error,
            )
        )

    @property
    def _succeeded(self) -> bool:
        return len(self.proposer.history.scored) > 1  # with the original

    def _check_failures(self, *, at_end: bool = False) -> None:
        """Raise ``TrainingError`` if nothing succeeds, as soon as that is no accident."""
        if not self._succeeded and (at_end or self.done >= _ENOUGH):
            raise TrainingError(f"all {self.done} evaluations have failed, the first one with: {self.cause}")

    def _save(self) -> None:
        state = {
            "space": _identity(self.menu), "evaluations": self.done, "cause": self.cause,
            "proposer": self.proposer.state_dict(),
        }  # fmt: skip
        self.run.keep("search", state, self.seconds)

    def _go_on(self, state: dict[str, Any]) -> None:
        if state.get("space") != _identity(self.menu):
            raise CheckpointError(
                f"the search in {self.run.folder} was begun on another space, or under other bounds: go on with the "
                "same, or start a new run."
            )
        try:
            self.proposer.load_state_dict(state["proposer"])
            self.done, self.cause, self._before = int(state["evaluations"]), state["cause"], float(state["seconds"])
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.run.folder} is damaged, or of another strategy ({error!r}): start a new run."
            ) from error
        self.run.note(f"search: going on after {self.done} of {self.scores.evaluations} evaluations")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A signal stops at once: what was evaluated is known, and the rest is begun again."""
        try:
            yield
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"stopped in search after evaluation {self.done} of {self.scores.evaluations}; everything is saved. "
                f"Go on with: {typed('resume', self.run.folder)}",
                self.run.stopped_by or signal.SIGINT,
            ) from stop


_ENOUGH = 10  # failures in a row, with no success before them, after which a search is given up


def _identity(menu: Menu) -> str:
    """Of sites, candidates, costs and bounds."""
    sites = [([choice.site.name for choice in decision.choices], decision.labels) for decision in menu.decisions]
    rest = [(table.name, table.rest, costs) for table, costs in zip(menu.tables, menu.costs, strict=True)]
    return hashlib.blake2b(repr((sites, rest, menu.bounds)).encode(), digest_size=16).hexdigest()


def _of_others(searched: Path | None, own: Path) -> list[Path]:
    """The evaluations in the folder whose supernet is taken, and in those beside it, as they are in a sweep."""
    if searched is None:
        return []
    own = own.resolve()
    return [file for file in sorted(Path(searched).resolve().parent.glob(f"*/{EVALUATIONS}")) if file.parent != own]
