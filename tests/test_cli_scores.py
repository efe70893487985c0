"""The command line with strategies that search by scores."""

import csv
from collections.abc import Callable
from pathlib import Path

from lwdc.records import EpochRecord, EvaluationRecord
from lwdc.tracking import parse_record, read_records

Run = Callable[..., tuple[int, str, str]]

TINY = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "data.limit_train=128", "compute=cpu",
    "space.candidates=[{op: original}, {op: grouped, groups: 4}, {op: pointwise}]",
    "train.epochs=1", "strategy.epochs=1", "strategy.evaluations=3", "strategy.batch=2",
    "strategy.evaluators.shared.images=60", "strategy.evaluators.shared.batches=1",
    "strategy.refit_images=0", "strategy.recalibrate_batches=1", "cost.budget=0.5",
]  # fmt: skip


def test_a_sweep_over_strategies_shares_baseline_supernet_and_evaluations(lwdc_in: Run, tmp_path: Path) -> None:
    code, _, error = lwdc_in("search", "-m", *TINY, "strategy=random,evolution,local", "hydra.sweep.dir=sweep")
    assert code == 0, error
    with (tmp_path / "sweep/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["evaluations"] for row in rows] == ["3"] * 3 and all(float(row["search_seconds"]) > 0 for row in rows)
    records = [[parse_record(r) for r in read_records(Path(row["folder"]) / "records.jsonl")] for row in rows]
    phases = [[r.phase for r in found if isinstance(r, EpochRecord)] for found in records]
    assert phases == [["baseline", "paths"], [], []]
    evaluated = [[(r.choices, r.cached) for r in found if isinstance(r, EvaluationRecord)] for found in records]
    # All begin with the same architectures drawn at random, which are evaluated once.
    assert [[cached for _, cached in run] for run in evaluated] == [[False] * 3, [True] * 3, [True] * 3]
    assert evaluated[1] == evaluated[2] == [(choices, True) for choices, _ in evaluated[0]]


def test_what_has_no_effect_in_a_search_by_scores_is_refused(lwdc_in: Run) -> None:
    for given, message in (
        ("gate=lwdc", "one path a step"),
        ("cost.factor=1", "has no use for cost.factor"),
        ("cost.end=0.7", "cost.end says how a search by gradients"),
        ("strategy.prior=1", "prior"),
        ("cost.budget=null", "give cost.budget; or take a score that counts the cost"),
    ):
        code, _, error = lwdc_in("search", "strategy=random", "compute=cpu", given)
        assert code != 0 and message in error, error
