"""Correlating: how alike evaluators rank the same architectures."""

import random
from collections.abc import Sequence

import numpy as np

from lwdc.errors import CostError, TrainingError
from lwdc.evaluators import Subject
from lwdc.pipeline.known import Judge, Known
from lwdc.pipeline.prepare import Prepared
from lwdc.pipeline.run import Run
from lwdc.proposers import Code, Menu
from lwdc.records import CorrelationRecord
from lwdc.training.fit import derive_seed

_LOW = 0.5  # of the one that scores with the dearest: below it a search hardly follows what it is for


def correlate(prepared: Prepared, run: Run, menu: Menu, subject: Subject, known: Known) -> None:
    """Evaluate random architectures under every evaluator, record how alike they are ranked, warn where they are not.

    Architectures that fail under one evaluator are left out. Raises ``TrainingError`` if fewer than two are left.
    """
    scores = prepared.settings.scores
    assert scores is not None
    architectures = [menu.decode(code) for code in drawn(menu, scores.correlate, prepared.settings.seed)]
    if len(architectures) < 2:
        raise CostError("no two random architectures were found within the bounds to compare evaluators on.")
    accuracies: list[list[float | None]] = []
    seconds = []
    for name, evaluator in scores.evaluators.items():
        run.note(f"{len(architectures)} random architectures under evaluator {name!r}")
        found = [evaluation for evaluation, _ in Judge(evaluator, subject, known, scores.jobs)(architectures)]
        accuracies.append([evaluation.accuracy for evaluation in found])
        seconds.append(sum(evaluation.seconds for evaluation in found) / len(found))
    sound = [i for i, row in enumerate(zip(*accuracies, strict=True)) if None not in row]
    if len(sound) < 2:
        raise TrainingError(
            f"{len(sound)} of {len(architectures)} architectures could be evaluated under every evaluator; comparing "
            f"them needs two. The causes stand in {known.path}."
        )
    kept = [[float(by_evaluator[i] or 0) for i in sound] for by_evaluator in accuracies]
    names = tuple(scores.evaluators)
    ranks = rank_correlations(kept)
    run.write(
        CorrelationRecord(
            evaluators=names,
            accuracies=tuple(tuple(row) for row in kept),
            shares=tuple(menu.share(menu.encode(architectures[i])) for i in sound),
            rank=ranks,
            seconds=tuple(seconds),
        )
    )
    agreement = ranks[names.index(scores.evaluator)][-1]
    text = f"evaluator {scores.evaluator!r} ranks {len(sound)} architectures as {names[-1]!r} does with {agreement:.2f}"
    if not agreement >= _LOW:
        run.note(
            f"{text} (Spearman): what the search finds best may not be. Take another evaluator, or "
            "train longer what it looks at.",
            "warning",
        )
    else:
        run.note(f"{text} (Spearman)")


def drawn(menu: Menu, count: int, seed: int) -> list[Code]:
    """So many different architectures at random within the bounds, or fewer where there are hardly any."""
    rng = random.Random(derive_seed(seed, "correlate", 0))
    found: dict[Code, None] = {}
    for _ in range(100 * count):
        code = menu.draw(rng)
        if code is not None:
            found[code] = None
        if len(found) == count:
            break
    return list(found)


def rank_correlations(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Spearman's correlation of every pair of rows; nan where a row has the same value everywhere."""
    import scipy.stats  # slow to import, and seldom needed

    ranks = np.array([scipy.stats.rankdata(row) for row in rows])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    norms[norms == 0] = np.nan
    return tuple(tuple(float(value) for value in row) for row in ranks @ ranks.T / np.outer(norms, norms))
