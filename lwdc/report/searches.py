"""Searches by scores in figures: the best so far, means over seeds, how alike two rankings are."""

import dataclasses
import statistics
from collections.abc import Sequence

from lwdc.records import EvaluationRecord
from lwdc.report.runs import ReadRun

FEWEST = 3  # architectures whose ranks are compared


@dataclasses.dataclass(frozen=True)
class Progress:
    """The best so far after every evaluation, from the first on, over runs that differ in their seed alone."""

    name: str
    runs: int
    mean: tuple[float | None, ...]  # None while a run has found nothing within its bounds
    deviation: tuple[float | None, ...]  # the sample's standard deviation; None of one run


def best_so_far(evaluations: Sequence[EvaluationRecord]) -> list[EvaluationRecord | None]:
    """After each evaluation the one with the largest score within the bounds.

    None while there is none, and while the best is an architecture that was not evaluated here: the original.
    """
    found: list[EvaluationRecord | None] = []
    best, record = None, None
    for evaluation in evaluations:
        if evaluation.best != best:
            best = evaluation.best
            record = evaluation if evaluation.score == best else None
        found.append(record)
    return found


def progress(runs: Sequence[ReadRun], *, accuracy: bool = False) -> list[Progress]:
    """The best scores of every series of runs, or the accuracies of the architectures that have them.

    Of runs that have come unequally far, as far as all of them have.
    """
    series: dict[str, list[list[float | None]]] = {}
    for run in runs:
        if run.evaluations:
            best = [None if record is None else record.accuracy for record in best_so_far(run.evaluations)]
            scores = [evaluation.best for evaluation in run.evaluations]
            series.setdefault(run.series or run.name, []).append(best if accuracy else scores)
    found = []
    for name, values in series.items():
        columns = [[v for v in column if v is not None] for column in zip(*values, strict=False)]
        whole = [column if len(column) == len(values) else [] for column in columns]
        mean = tuple(statistics.fmean(column) if column else None for column in whole)
        deviation = tuple(statistics.stdev(column) if len(column) > 1 else None for column in whole)
        found.append(Progress(name, len(values), mean, deviation))
    return found


def predicted(evaluations: Sequence[EvaluationRecord]) -> list[tuple[float, float, EvaluationRecord]]:
    """The accuracy expected, the one found, and the record, where there are both."""
    return [(e.predicted, e.accuracy, e) for e in evaluations if e.predicted is not None and e.accuracy is not None]


def agreement_text(evaluations: Sequence[EvaluationRecord]) -> str:
    """Over how many architectures what was expected and what was found rank them how far alike."""
    known = predicted(evaluations)
    rank = rank_correlation([expected for expected, _, _ in known], [found for _, found, _ in known])
    of = f"over {len(known)} architecture{'' if len(known) == 1 else 's'}"
    return f"No rank correlation {of} yet." if rank is None else f"Spearman's rank correlation {rank:.2f} {of}."


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's; None of fewer than ``FEWEST`` pairs, and where all of a side are equal."""
    if len(a) < FEWEST or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    import scipy.stats  # slow to import, and seldom needed

    return float(scipy.stats.spearmanr(a, b).statistic)
