"""Searches in figures: the best so far, means over seeds and rank correlations, by hand."""

import dataclasses
import math
from pathlib import Path

import pytest

from lwdc.records import EvaluationRecord
from lwdc.report import ReadRun
from lwdc.report.searches import agreement_text, best_so_far, predicted, progress, rank_correlation

Evaluations = tuple[EvaluationRecord, ...]


def run(series: str, evaluations: Evaluations, name: str = "run") -> ReadRun:
    return ReadRun(Path(name), name, "done", (), (), None, series, series, evaluations)


def scored(evaluations: Evaluations, best: tuple[float | None, ...]) -> Evaluations:
    pairs = zip(evaluations, best, strict=False)
    return tuple(dataclasses.replace(record, best=value) for record, value in pairs)


def test_the_best_so_far_is_the_last_whose_score_became_the_best(evaluations: Evaluations) -> None:
    assert [record and record.index for record in best_so_far(evaluations)] == [1, 1, 3, 3, 5, 5]


def test_an_original_that_is_the_best_has_no_evaluation_of_its_own(evaluations: Evaluations) -> None:
    original = scored(evaluations, (1.0, 1.0, 1.0, 1.0, 1.05, 1.05))
    assert [record and record.index for record in best_so_far(original)] == [None] * 4 + [5, 5]
    nothing = scored(evaluations, (None, None, 0.95, 0.95, 0.95, 0.95))  # the first exceeds the bounds
    assert [record and record.index for record in best_so_far(nothing)] == [None, None, 3, 3, 3, 3]


def test_runs_of_one_series_give_their_mean_and_deviation_as_far_as_all_have_come(evaluations: Evaluations) -> None:
    other = scored(evaluations[:5], (None, 0.8, 0.85, 0.95, 0.95))
    (one, two) = progress([run("a", evaluations), run("b", evaluations), run("a", other), run("c", ())])
    assert (one.name, one.runs, two.name, two.runs) == ("a", 2, "b", 1)
    assert one.mean == (None, *map(pytest.approx, (0.85, 0.9, 0.95, 1.0)))
    half = [math.sqrt(2) * distance for distance in (0.05, 0.05, 0.0, 0.05)]  # of two values the sample's deviation
    assert one.deviation == (None, *map(pytest.approx, half))
    assert two.mean == (0.9, 0.9, 0.95, 0.95, 1.05, 1.05) and set(two.deviation) == {None}


def test_accuracies_are_those_of_the_architectures_with_the_best_scores(evaluations: Evaluations) -> None:
    (found,) = progress([run("a", evaluations)], accuracy=True)
    assert found.mean == (0.72, 0.72, 0.76, 0.76, 0.84, 0.84)


def test_what_failed_or_was_not_predicted_does_not_count_in_the_rank_correlation(evaluations: Evaluations) -> None:
    assert [(a, b) for a, b, _ in predicted(evaluations)] == [(0.75, 0.76), (0.76, 0.74), (0.79, 0.84), (0.78, 0.8)]
    # Ranks 1, 2, 4, 3 against 2, 1, 4, 3: 1 - 6 * 2 / (4 * 15).
    assert agreement_text(evaluations) == "Spearman's rank correlation 0.80 over 4 architectures."
    assert agreement_text(evaluations[:3]) == "No rank correlation over 1 architecture yet."


def test_equal_values_have_no_rank_correlation() -> None:
    assert rank_correlation([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    assert rank_correlation([0.1, 0.2], [0.1, 0.2]) is None
    assert rank_correlation([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) == pytest.approx(-1)
