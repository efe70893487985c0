"""Figures of searches by scores: what they show of a few records, on the page and on paper."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from lwdc.records import CorrelationRecord, EmbeddingRecord, EvaluationRecord
from lwdc.report import ReadRun, prints, read_runs, search_figures

Evaluations = tuple[EvaluationRecord, ...]


def by_name(traces: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in traces}


def test_evaluations_stand_in_their_order_with_the_best_so_far_and_those_that_failed(evaluations: Evaluations) -> None:
    found = by_name(search_figures.evaluation_traces(evaluations, "accuracy"))
    assert list(found) == ["evaluated", "known before", "best so far", "failed"]
    assert (found["evaluated"].x, found["evaluated"].y) == ((1, 3, 5, 6), (0.72, 0.76, 0.84, 0.8))
    assert (found["known before"].x, found["known before"].y) == ((4,), (0.74,))
    assert found["best so far"].y == (0.72, 0.72, 0.76, 0.76, 0.84, 0.84)
    assert found["failed"].x == (2,) and found["failed"].y == (0.72,)  # as low as the lowest
    scores = by_name(search_figures.evaluation_traces(evaluations, "score"))
    assert scores["best so far"].y == (0.9, 0.9, 0.95, 0.95, 1.05, 1.05)


def test_the_pointer_tells_cost_accuracy_and_cause(evaluations: Evaluations) -> None:
    found = by_name(search_figures.evaluation_traces(evaluations, "accuracy"))
    lines = found["evaluated"].text[1].split("<br>")
    assert lines == ["evaluation 3, 44.0% of the cost", "accuracy 76.0%, expected 75.0%", "score 0.9500", "in 2.0s"]
    (failed,) = found["failed"].text
    assert failed.startswith("evaluation 2, 46.0% of the cost<br>failed: the loss is nan &lt;script&gt;")


def test_a_search_of_which_all_failed_is_drawn(evaluations: Evaluations) -> None:
    failed = [dataclasses.replace(record, accuracy=None, score=None, best=None) for record in evaluations]
    (trace,) = search_figures.evaluation_traces(failed, "accuracy")
    assert (trace.name, trace.y) == ("failed", (0.0,) * 6)
    assert search_figures.predictions(failed) is None
    assert len(search_figures.evaluations(failed).data) == 2


def test_buttons_show_one_kind_at_a_time(evaluations: Evaluations, embedding: EmbeddingRecord) -> None:
    for figure, kinds in (
        (search_figures.evaluations(evaluations), {"accuracy": 4, "score": 4}),
        (search_figures.embedding(embedding), {"accuracy": 4, "cost": 4}),
    ):
        (menu,) = figure.layout.updatemenus
        shown = {button.label: button.args[0]["visible"] for button in menu.buttons}
        assert {label: sum(visible) for label, visible in shown.items()} == kinds
        first, second = shown.values()
        assert [trace.visible for trace in figure.data] == first == [not visible for visible in second]


def test_what_none_beats_in_accuracy_and_cost_is_the_front(evaluations: Evaluations) -> None:
    given = ((0.3, 0.7), (0.5, 0.9), (0.4, 0.7), (0.5, 0.8), (0.2, 0.6), (0.6, None))
    records = [
        dataclasses.replace(record, share=share, accuracy=accuracy)
        for record, (share, accuracy) in zip(evaluations, given, strict=True)
    ]
    front, points = search_figures.trade_off(records).data
    assert (front.x, front.y) == ((0.2, 0.3, 0.5), (0.6, 0.7, 0.9)) and front.line.shape == "hv"
    assert list(zip(points.x, points.y, strict=True)) == list(given[:5])
    assert search_figures.trade_off(records[:1]) is None and search_figures.trade_off(records[5:]) is None


def test_predictions_are_on_x_and_what_was_found_on_y(evaluations: Evaluations) -> None:
    diagonal, points = search_figures.predictions(evaluations).data
    assert (points.x, points.y) == ((0.75, 0.76, 0.79, 0.78), (0.76, 0.74, 0.84, 0.8))
    assert points.marker.color == (3, 4, 5, 6)
    assert diagonal.x == diagonal.y == (0.74, 0.84)
    assert search_figures.predictions(evaluations[:2]) is None


def test_an_embedding_is_coloured_by_accuracy_or_cost_and_its_path_has_two_ends(embedding: EmbeddingRecord) -> None:
    points, path, start, end = search_figures.embedding_traces(embedding, "accuracy")
    assert list(zip(points.x, points.y, strict=True)) == list(embedding.points)
    assert points.marker.color == embedding.accuracies
    assert list(zip(path.x, path.y, strict=True)) == list(embedding.path)
    assert ((start.x, start.y), (end.x, end.y)) == (((0.0,), (0.0,)), ((1.0,), (0.5,)))
    assert search_figures.explained(embedding) == "83.0%"
    assert search_figures.explained(dataclasses.replace(embedding, explained=math.nan)) == "all"
    (points,) = search_figures.embedding_traces(dataclasses.replace(embedding, path=()), "cost")
    assert points.marker.color == embedding.shares


def test_evaluators_are_compared_in_pairs_and_with_the_dearest(correlation: CorrelationRecord) -> None:
    heat = search_figures.correlation_trace(correlation)
    assert tuple(map(tuple, heat.z)) == correlation.rank and heat.x == heat.y == correlation.evaluators
    diagonal, cheap, dearer = search_figures.agreement_traces(correlation)
    assert (cheap.x, cheap.y) == ((0.5, 0.6, 0.7, 0.4), (0.7, 0.8, 0.75, 0.6))
    assert dearer.x == (0.6, 0.7, 0.65, 0.5) and dearer.y == cheap.y
    assert diagonal.x == (0.4, 0.8)
    lost = dataclasses.replace(correlation, accuracies=((math.nan, 0.6, 0.7, 0.4), *correlation.accuracies[1:]))
    assert search_figures.agreement_traces(lost)[0].x == (0.4, 0.8)


def test_every_strategy_has_a_line_and_several_seeds_a_band(evaluations: Evaluations) -> None:
    lower = tuple(dataclasses.replace(record, best=(record.best or 0) - 0.1) for record in evaluations)
    runs = [
        ReadRun(Path(name), name, "done", (), (), None, strategy, strategy, own)
        for name, strategy, own in (("a", "evolution", evaluations), ("b", "evolution", lower), ("c", "random", lower))
    ]
    band, evolution, random = search_figures.progress_traces(runs, "score")
    assert (evolution.name, random.name) == ("evolution, 2 runs", "random")
    assert evolution.y == pytest.approx((0.85, 0.85, 0.9, 0.9, 1.0, 1.0))
    assert random.y == pytest.approx((0.8, 0.8, 0.85, 0.85, 0.95, 0.95))
    assert band.x == (1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1)
    assert band.y[0] == pytest.approx(0.85 + math.sqrt(0.005)) and band.y[-1] == pytest.approx(0.85 - math.sqrt(0.005))
    assert search_figures.progress([dataclasses.replace(run, evaluations=()) for run in runs]) is None


def test_figures_for_print_show_both_kinds_side_by_side(searched: Path, embedding: EmbeddingRecord) -> None:
    (run,) = read_runs([searched])
    found = prints.of_runs([run])
    assert set(found) == {
        "choices", "costs", "curves", "inheritance", "evaluations", "trade_off", "predictions", "embedding",
        "correlation",
    }  # fmt: skip
    for figure in found.values():
        assert not figure.layout.updatemenus and figure.layout.width == 672
        assert all(trace.visible in (None, True) for trace in figure.data)
    best = [trace.y for trace in found["evaluations"].data if trace.name == "best so far"]
    assert best == [(0.72, 0.72, 0.76, 0.76, 0.84, 0.84), (0.9, 0.9, 0.95, 0.95, 1.05, 1.05)]
    assert found["predictions"].layout.title.text == "Spearman's rank correlation 0.80 over 4 architectures."
    coloured = [trace.marker.color for trace in found["embedding"].data if trace.marker.showscale]
    assert coloured == [embedding.accuracies, embedding.shares]
    names = [trace.name for trace in found["evaluations"].data if trace.showlegend]
    assert names == ["evaluated", "known before", "best so far", "failed"]
    assert set(prints.of_runs([run, run])) == {"front", "progress"}
