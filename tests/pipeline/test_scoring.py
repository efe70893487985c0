"""Runs that search by scores: the whole line, what is shared, and that it ends the same however it was broken off."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.architecture import Architecture
from lwdc.costs import Macs, Params
from lwdc.errors import CheckpointError, CostError, LwdcError, SpaceError, TrainingError
from lwdc.evaluators import SharedWeights, Subject
from lwdc.gates import SinglePath, Softmax
from lwdc.pipeline import CostSettings, Interrupted, Run, ScoreSettings, Settings, compress, prepare
from lwdc.pipeline.known import Known
from lwdc.proposers import Evolution, RandomSearch, compression
from lwdc.records import CorrelationRecord, EpochRecord, EvaluationRecord, Note, Record, Result
from lwdc.space import SearchSpace
from lwdc.tracking import parse_record, read_records

Make = Callable[..., Settings]
SHARED = SharedWeights(images=50, batches=1)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An accuracy from the seed, which hangs on the architecture; stops or fails where it is told to."""

    name: str = "drawn"

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        CALLS.append(architecture)
        return OUTCOME[0](seed)


CALLS: list[Architecture] = []
OUTCOME: list[Callable[[int], float]] = [lambda seed: 0.1 + seed % 1000 / 2000]


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def scores(**changes: Any) -> ScoreSettings:
    given: dict[str, Any] = {
        "proposer": RandomSearch, "evaluators": {"drawn": Drawn()}, "evaluator": "drawn", "evaluations": 5, "batch": 2,
    }  # fmt: skip
    return ScoreSettings(**given | changes)


@pytest.fixture(scope="module")
def make(settings: Make) -> Make:
    """``settings`` of a search by scores."""
    return functools.partial(settings, gate=SinglePath, logits_optim=None, scores=scores())


@pytest.fixture(scope="module")
def whole(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run with the supernet as evaluator, beside others that rank with it. Tests leave it unchanged."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    evaluators = {"shared": SHARED, "drawn": Drawn(), "again": SHARED}
    asked = scores(evaluators=evaluators, evaluator="shared", correlate=4)
    result = compress(make(scores=asked), folder, {})
    assert result is not None
    return folder, result


def records_of(folder: Path) -> list[Record]:
    return [parse_record(line) for line in read_records(folder / "records.jsonl")]


def evaluations_of(folder: Path) -> list[EvaluationRecord]:
    """Without what a clock says."""
    found = [record for record in records_of(folder) if isinstance(record, EvaluationRecord)]
    return [dataclasses.replace(record, seconds=0.0, ask_seconds=0.0) for record in found]


def test_the_line_runs_from_paths_to_a_network_within_the_budget(whole: tuple[Path, Result]) -> None:
    folder, result = whole
    assert result.after.macs <= 0.5 * result.before.macs
    assert list(result.seconds) == ["baseline", "paths", "search", "finetune", "export"]
    phases = [record.phase for record in records_of(folder) if isinstance(record, EpochRecord)]
    assert phases == ["baseline", "paths", "finetune"]
    found = evaluations_of(folder)
    assert [record.index for record in found] == [1, 2, 3, 4, 5]
    assert all(record.share <= 0.5 and record.predicted is None and not record.cached for record in found)
    best = max(found, key=lambda record: (record.accuracy or 0, -record.share))
    architecture = Architecture.load(folder / "architecture.json")
    assert {site.site: site.operator for site in result.sites} == best.choices
    assert list(best.choices) == list(architecture.choices)
    assert found[-1].best == best.score
    assert [record.best for record in found] == sorted(record.best or 0 for record in found)


def test_evaluators_are_compared_before_the_search(whole: tuple[Path, Result]) -> None:
    records = records_of(whole[0])
    kinds = [type(record) for record in records]
    assert kinds.index(CorrelationRecord) < kinds.index(EvaluationRecord)
    (found,) = (record for record in records if isinstance(record, CorrelationRecord))
    assert found.evaluators == ("shared", "drawn", "again")
    assert found.accuracies[0] == found.accuracies[2] and len(found.shares) == 4
    assert found.rank[0][0] == pytest.approx(1) and found.rank[0][2] == pytest.approx(1)
    assert found.rank[0][1] == found.rank[1][0]


@pytest.fixture(scope="module")
def drawn(make: Make, whole: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A search over the same supernet, alone in its sweep: what others end like."""
    folder = tmp_path_factory.mktemp("drawn")
    source = shutil.copytree(whole[0], folder / "source" / "run")
    given = make(searched=source, scores=scores(proposer=functools.partial(Evolution, population=2, tournament=1)))
    compress(given, folder / "run" / "run", {}, until="search")
    return folder / "run" / "run", given


def test_another_run_takes_baseline_and_supernet(whole: tuple[Path, Result], drawn: tuple[Path, Settings]) -> None:
    folder, _ = drawn
    assert not any(isinstance(record, EpochRecord) for record in records_of(folder))
    ours, theirs = (load_file(path / "baseline.safetensors") for path in (folder, whole[0]))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert (folder / "paths.pt").is_file()


@pytest.mark.parametrize("place", ["evaluate 1", "evaluate 4", "known 2", "keep 1", "keep 3", "keep 4", "write 6"])
def test_a_search_killed_anywhere_ends_as_if_it_had_not_been(
    drawn: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    where, number = place.split()
    left = [int(number)]

    class Killed(BaseException):
        pass

    def counting(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return work(*args, **kwargs)

        return call

    owner, name = {
        "evaluate": (Drawn, "__call__"), "known": (Known, "add"), "keep": (Run, "keep"), "write": (Run, "write")
    }[where]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting(getattr(owner, name)))
        with pytest.raises(Killed):
            compress(drawn[1], tmp_path / "run", {}, until="search")
    compress(drawn[1], tmp_path / "run", {}, until="search", resume=True)
    check_alike(drawn[0], tmp_path / "run")


def check_alike(one: Path, other: Path) -> None:
    """The same evaluations, choice and weights, bit for bit."""
    assert evaluations_of(one) == evaluations_of(other)
    assert Architecture.load(one / "architecture.json") == Architecture.load(other / "architecture.json")
    ours, theirs = (load_file(path / "discretised.safetensors") for path in (one, other))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_interrupt_says_how_to_go_on(drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    def interrupted(seed: int) -> float:
        if len(CALLS) == 4:
            raise KeyboardInterrupt
        return plain(seed)

    plain = OUTCOME[0]
    OUTCOME[0] = interrupted
    try:
        with pytest.raises(Interrupted, match=r"stopped in search after evaluation 2 of 5.*resume="):
            compress(drawn[1], tmp_path / "run", {}, until="search")
    finally:
        OUTCOME[0] = plain
    compress(drawn[1], tmp_path / "run", {}, until="search", resume=True)
    check_alike(drawn[0], tmp_path / "run")


def test_two_at_a_time_end_as_one_after_the_other(make: Make, whole: tuple[Path, Result], tmp_path: Path) -> None:
    evaluators = {"shared": SharedWeights(images=40, batches=1)}
    for jobs in (1, 2):
        asked = scores(evaluators=evaluators, evaluator="shared", jobs=jobs)
        compress(make(searched=whole[0], scores=asked), tmp_path / str(jobs), {}, until="search")
        (tmp_path / str(jobs)).rename(tmp_path / f"{jobs}_alone")
    check_alike(tmp_path / "1_alone", tmp_path / "2_alone")


def test_evaluations_are_shared_by_what_made_them(make: Make, drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    for name in ("first", "other"):
        shutil.copytree(drawn[0], tmp_path / name)
    CALLS.clear()
    again = dataclasses.replace(drawn[1], searched=tmp_path / "first")
    compress(again, tmp_path / "second", {}, until="search")
    assert not CALLS
    found = evaluations_of(tmp_path / "second")
    assert all(record.cached for record in found)
    assert [dataclasses.replace(record, cached=False) for record in found] == evaluations_of(drawn[0])
    assert again.scores is not None
    renamed = dataclasses.replace(again.scores, evaluators={"drawn": Drawn("another")})
    compress(dataclasses.replace(again, scores=renamed), tmp_path / "third", {}, until="search")
    assert len(CALLS) == 6  # with the original


def test_a_search_of_another_space_is_not_gone_on_with(
    drawn: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Run.finish

    def stopping(run: Run, phase: str, **figures: Any) -> None:
        if phase == "search":
            raise KeyboardInterrupt
        finish(run, phase, **figures)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stopping)
        with pytest.raises(Interrupted):
            compress(drawn[1], tmp_path / "run", {}, until="search")
    other = dataclasses.replace(drawn[1], cost=CostSettings(Macs(), budget=0.6))
    with pytest.raises(CheckpointError, match="was begun on another space, or under other bounds"):
        compress(other, tmp_path / "run", {}, resume=True)


@pytest.mark.parametrize(
    ("outcome", "cause"), [(float("nan"), "the accuracy is nan"), (RuntimeError("no memory"), "no memory")]
)
def test_a_search_in_which_all_evaluations_fail_stops_with_the_first_cause(
    drawn: tuple[Path, Settings], tmp_path: Path, outcome: Any, cause: str
) -> None:
    def failing(seed: int) -> float:
        if len(CALLS) == 1:
            return plain(seed)  # the original
        if isinstance(outcome, Exception):
            raise outcome
        return float(outcome)

    plain, OUTCOME[0] = OUTCOME[0], failing
    try:
        with pytest.raises(TrainingError, match=f"all 5 evaluations have failed, the first one with: {cause}"):
            compress(drawn[1], tmp_path / "run", {}, until="search")
    finally:
        OUTCOME[0] = plain
    found = evaluations_of(tmp_path / "run")
    assert [record.error for record in found] == [cause] * 5
    assert all(record.accuracy is record.score is record.best is None for record in found)


def test_a_failure_among_others_is_recorded_and_passed_over(drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    plain, OUTCOME[0] = OUTCOME[0], lambda seed: float("nan") if len(CALLS) == 3 else plain(seed)
    try:
        compress(drawn[1], tmp_path / "run", {}, until="search")
    finally:
        OUTCOME[0] = plain
    assert [record.accuracy is None for record in evaluations_of(tmp_path / "run")] == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_an_original_that_cannot_be_evaluated_stops_the_search(drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    plain, OUTCOME[0] = OUTCOME[0], lambda seed: 0.0
    try:
        with pytest.raises(TrainingError, match="the original network.*nothing right"):
            compress(drawn[1], tmp_path / "run", {}, until="search")
    finally:
        OUTCOME[0] = plain


def test_a_score_that_counts_the_cost_needs_no_budget(drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    assert drawn[1].scores is not None
    given = dataclasses.replace(
        drawn[1], cost=CostSettings(Macs()), scores=dataclasses.replace(drawn[1].scores, score=compression)
    )
    compress(given, tmp_path / "run", {}, until="search")
    found = evaluations_of(tmp_path / "run")
    assert found[-1].best == max(record.score or 0 for record in found)


def test_a_space_that_is_used_up_ends_the_search_early(make: Make, tmp_path: Path) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "pointwise"}], include=["layer3*"], tie=["layer3*"])
    asked = make(space=space, cost=CostSettings(Macs(), budget="100%"))
    compress(asked, tmp_path / "run", {}, until="search")
    assert len(evaluations_of(tmp_path / "run")) == 1  # the original was told
    notes = [record.text for record in records_of(tmp_path / "run") if isinstance(record, Note)]
    assert any(note.startswith("after 1 evaluations the strategy knows no other") for note in notes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cost": CostSettings(Macs(), factor=1.0)}, CostError, "has no use for cost.factor"),
        ({"cost": CostSettings(Macs())}, CostError, "counts accuracy alone, so give cost.budget"),
        ({"cost": CostSettings(Macs(), budget=0.5, rate=7.0)}, CostError, "cost.rate says how a search by gradients"),
        ({"cost": CostSettings(Macs(), budget=0.5, also=(CostSettings(Params()),))}, CostError, "give its budget"),
        ({"cost": CostSettings(Macs(), budget=0.01)}, CostError, "cannot be reached"),
        (
            {"space": SearchSpace([{"op": "original"}, {"op": "kernel", "size": 3}])},
            SpaceError,
            "usable|one architecture",
        ),
        ({"scores": scores(proposer=functools.partial(Evolution, population=1))}, SpaceError, "population"),
        ({"scores": scores(proposer=functools.partial(RandomSearch, depth=1))}, LwdcError, "strategy.proposer cannot"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(
    make: Make, changes: dict[str, Any], error: type[LwdcError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(make(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": Softmax}, "one path a step"),
        ({"scores": None}, "logits_optim"),
        ({"scores": None, "logits_optim": torch.optim.Adam}, "learns nothing"),
    ],
)
def test_gates_and_searches_belong_together(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LwdcError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "strategy.evaluations is a number from 1 on"),
        ({"jobs": 1.5}, "strategy.jobs"),
        ({"evaluator": "dawn"}, "Did you mean 'drawn'"),
        ({"correlate": 1}, "two or more of each"),
        ({"correlate": 5}, "two or more of each"),
    ],
)
def test_settings_that_say_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LwdcError, match=message):
        scores(**changes)


def test_a_half_written_line_of_known_evaluations_is_left_out(drawn: tuple[Path, Settings], tmp_path: Path) -> None:
    lines = (drawn[0] / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    architecture = Architecture(first["choices"])
    path = tmp_path / "evaluations.jsonl"
    for cut in (len(lines[0]) - 1, len(lines[0]) // 2):
        path.write_bytes(lines[0] + lines[1][:cut])
        known = Known(path)
        found = known.find(first["fingerprint"], architecture)
        assert found is not None and found[0].accuracy == first["accuracy"]
        known.add("another", architecture, found[0])
        assert Known(path).find("another", architecture) == (found[0], False)
        assert Known(tmp_path / "none", [path]).find("another", architecture) == (found[0], True)
        assert Known(path).find("a third", architecture) is None
