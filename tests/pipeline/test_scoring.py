"""Runs that search by scores: the whole line, what is shared, and that it ends the same however it was broken off."""

import copy
import dataclasses
import functools
import json
import re
import shutil
import signal
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.architecture import Architecture
from lwdc.candidates import label
from lwdc.costs import Macs, Params, logarithmic
from lwdc.errors import CheckpointError, CostError, LwdcError, SpaceError, TrainingError
from lwdc.evaluators import Refitted, SharedWeights, Subject, canonical, evaluate
from lwdc.folders import CHECKPOINT
from lwdc.gates import SinglePath, Softmax
from lwdc.pipeline import CostSettings, Interrupted, Run, ScoreSettings, Settings, compress, prepare
from lwdc.pipeline.known import Judge, Known
from lwdc.pipeline.scoring import search_by_scores
from lwdc.proposers import Evolution, LocalSearch, RandomSearch, compression
from lwdc.records import CorrelationRecord, EpochRecord, EvaluationRecord, Note, Record, Result
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.tracking import parse_record, read_records
from lwdc.training import load_checkpoint

Make = Callable[..., Settings]
Outcomes = Callable[[Callable[[int], Any]], None]
SHARED = SharedWeights(images=50, batches=1)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An accuracy from the seed, which hangs on the architecture."""

    name: str = "drawn"

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        CALLS.append(architecture)
        return 0.1 + seed % 1000 / 2000


CALLS: list[Architecture] = []


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


def test_what_keeps_most_of_the_trained_layers_is_evaluated_first(
    make: Make, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    kept, _ = evaluations_of(whole[0])[0], compress(make(beginning=False), tmp_path / "run", {}, until="search")
    assert evaluations_of(tmp_path / "run")[0].choices != kept.choices
    search = dataclasses.replace(make().search, epochs=0)
    begun = make(scores=None, gate=Softmax, logits_optim=torch.optim.Adam, search=search, baseline=whole[0])
    compress(begun, tmp_path / "begun", {}, until="search")
    architecture = Architecture.load(tmp_path / "begun" / "architecture.json")
    assert {site: label(choice) for site, choice in architecture.choices.items()} == kept.choices


def test_paths_are_drawn_evenly_whatever_operators_have_inherited(make: Make, whole: tuple[Path, Result]) -> None:
    prepared = prepare(make(baseline=whole[0]))
    ops = selection_ops(prepared.supernet(prepared.model)).values()
    assert any(error > 0.1 for op in ops for error in op.errors.values())
    for op in ops:
        assert torch.equal(op.gate.expectation(), torch.full((len(op.candidates),), 1 / len(op.candidates)))
    state = load_checkpoint(whole[0] / "paths.pt")["state"]
    trained = [logits for key, logits in state.items() if key.endswith("logits")]
    assert trained and not any(logits.any() for logits in trained)


def test_what_was_chosen_goes_on_with_the_weights_asked_for(
    make: Make, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    evaluators = {"shared": SHARED}
    shared = {"searched": whole[0], "scores": scores(evaluators=evaluators, evaluator="shared")}
    weights = {}
    for whose in ("supernet", "baseline"):
        folder = tmp_path / whose
        compress(make(weights=whose, **shared), folder, {}, until="search")
        weights[whose] = load_file(folder / "discretised.safetensors")
        (said,) = (n.text for n in records_of(folder) if isinstance(n, Note) and "has right" in n.text)
        assert said.endswith(f"the {whose}'s go on")
        assert load_checkpoint(folder / CHECKPOINT)["done"]["search"]["weights"] == whose
    alike = {whose: found["linear.weight"] for whose, found in weights.items()}  # of no site
    trained = load_checkpoint(whole[0] / "paths.pt")["state"]["linear.weight"]
    assert torch.equal(alike["supernet"], trained) and not torch.equal(alike["baseline"], trained)
    assert torch.equal(alike["baseline"], load_file(whole[0] / "baseline.safetensors")["linear.weight"])


def test_evaluators_are_compared_before_the_search(whole: tuple[Path, Result]) -> None:
    records = records_of(whole[0])
    kinds = [type(record) for record in records]
    assert kinds.index(CorrelationRecord) < kinds.index(EvaluationRecord)
    (found,) = (record for record in records if isinstance(record, CorrelationRecord))
    assert found.evaluators == ("shared", "drawn", "again")
    assert found.accuracies[0] == found.accuracies[2] and len(found.shares) == 4
    assert found.rank[0][0] == pytest.approx(1) and found.rank[0][2] == pytest.approx(1)
    assert found.rank[0][1] == found.rank[1][0]


@dataclasses.dataclass(frozen=True)
class Hashed:
    """An accuracy that hangs on the architecture alone, upwards or downwards."""

    sign: float
    fails: bool = False

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        if self.fails and any(choice["op"] != "original" for choice in architecture.choices.values()):
            raise TrainingError("no luck")
        return 0.5 + self.sign * zlib.crc32(canonical(architecture).encode()) / 2**33


Search = Callable[..., Architecture]


@pytest.fixture(scope="module")
def search(make: Make) -> Search:
    """``search(folder, **changes of scores)``: the search alone, on a supernet that is not trained; its choice.

    ``other`` are changes of the settings.
    """
    given = prepare(make())
    untrained = given.supernet(given.model)

    def run(
        folder: Path, *, resume: bool = False, other: dict[str, Any] | None = None, **changes: Any
    ) -> Architecture:  # fmt: skip
        asked = dataclasses.replace(given.settings, scores=scores(**EVOLUTION | changes))
        prepared, supernet = dataclasses.replace(given, settings=asked), copy.deepcopy(untrained)
        if other is not None:
            prepared = prepare(dataclasses.replace(asked, **other))
            supernet = prepared.supernet(prepared.model)
        with Run(folder, {}, resume=resume) as run:
            chooser, found = search_by_scores(prepared, run, given.model, supernet)
        assert found["evaluations"] == len(evaluations_of(folder))
        return chooser.choice()

    return run


EVOLUTION = {"proposer": functools.partial(Evolution, population=2, tournament=1)}


@pytest.fixture(scope="module")
def found(search: Search, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Architecture]:
    """A search that nothing broke off: what others end like."""
    folder = tmp_path_factory.mktemp("found") / "run"
    return folder, search(folder)


def test_an_evaluator_that_ranks_unlike_the_dearest_is_warned_of(search: Search, tmp_path: Path) -> None:
    up, down = Hashed(1), Hashed(-1)
    search(tmp_path / "run", evaluators={"up": up, "down": down}, evaluator="up", correlate=4)
    (found,) = (note for note in records_of(tmp_path / "run") if isinstance(note, Note) and note.level == "warning")
    assert found.text.startswith("evaluator 'up' ranks 4 architectures as 'down' does with -1.00 (Spearman): what")


def test_evaluators_that_cannot_be_compared_are_refused(search: Search, tmp_path: Path) -> None:
    lost = {"up": Hashed(1), "lost": Hashed(1, fails=True)}
    with pytest.raises(TrainingError, match="0 of 4 architectures could be evaluated under every evaluator; comparing"):
        search(tmp_path / "run", evaluators=lost, evaluator="up", correlate=4)


def test_another_run_takes_baseline_and_supernet(make: Make, whole: tuple[Path, Result], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    evaluators = {"shared": SHARED}
    compress(make(searched=whole[0], scores=scores(evaluators=evaluators, evaluator="shared")), folder, {})
    phases = [record.phase for record in records_of(folder) if isinstance(record, EpochRecord)]
    assert phases == ["finetune"]
    for file in ("baseline.safetensors", "finetuned.safetensors"):
        ours, theirs = (load_file(path / file) for path in (folder, whole[0]))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    known = evaluations_of(folder)
    assert all(record.cached for record in known)
    assert [dataclasses.replace(record, cached=False) for record in known] == evaluations_of(whole[0])


@pytest.mark.parametrize("place", ["evaluate 1", "evaluate 4", "add 3", "keep 1", "keep 3", "write 5"])
def test_a_search_killed_anywhere_ends_as_if_it_had_not_been(
    search: Search, found: tuple[Path, Architecture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owners = {"evaluate": (Drawn, "__call__"), "add": (Known, "add"), "keep": (Run, "keep"), "write": (Run, "write")}
    where, number = place.split()
    owner, name = owners[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed_at(int(number), getattr(owner, name)))
        with pytest.raises(Killed):
            search(tmp_path / "run")
    assert search(tmp_path / "run", resume=True) == found[1]
    assert evaluations_of(tmp_path / "run") == evaluations_of(found[0])


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(number: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work``, but for the call of that number."""
    left = [number]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise Killed
        return work(*args, **kwargs)

    return call


def test_a_signal_stops_the_line_and_it_goes_on(
    make: Make, whole: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make(searched=whole[0], scores=scores(evaluators={"drawn": Drawn("of a stopped run")}))
    plain = Drawn.__call__

    def stopped(self: Drawn, *args: Any) -> float:
        if len(CALLS) == 4:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Drawn, "__call__", stopped)
        with pytest.raises(Interrupted, match=r"stopped in search after evaluation 3 of 5.*resume=") as stop:
            compress(asked, tmp_path / "run", {}, until="search")
    assert stop.value.signal_number == signal.SIGTERM
    CALLS.clear()
    compress(asked, tmp_path / "run", {}, until="search", resume=True)
    assert len(CALLS) == 2
    assert [record.index for record in evaluations_of(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.long  # processes that import PyTorch anew
def test_two_at_a_time_end_as_one_after_the_other(search: Search, tmp_path: Path) -> None:
    evaluators = {"shared": SHARED}
    alone, beside = (
        search(tmp_path / str(jobs), evaluators=evaluators, evaluator="shared", jobs=jobs) for jobs in (1, 2)
    )
    assert alone == beside
    assert evaluations_of(tmp_path / "1") == evaluations_of(tmp_path / "2")


def test_evaluations_count_only_for_the_evaluator_that_made_them(
    search: Search, found: tuple[Path, Architecture], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(found[0] / "evaluations.jsonl", tmp_path / "run")
    assert search(tmp_path / "run") == found[1]
    assert not CALLS
    shutil.copytree(tmp_path / "run", tmp_path / "other", ignore=shutil.ignore_patterns("*.pt", "records*"))
    search(tmp_path / "other", evaluators={"drawn": Drawn("otherwise")})
    assert len(CALLS) == 6  # with the original


@pytest.mark.parametrize(
    "other",
    [
        {"cost": CostSettings(Macs(), budget=0.6)},
        {"space": SearchSpace([{"op": "original"}, {"op": "separable"}, {"op": "pointwise"}])},
        {
            "space": SearchSpace(
                [{"op": "original"}, {"op": "separable"}, {"op": "pointwise"}], exclude=["layer1.0.conv1"]
            )
        },
    ],
    ids=["bound", "candidates", "sites"],
)
def test_a_search_of_another_space_is_not_gone_on_with(
    search: Search, found: tuple[Path, Architecture], tmp_path: Path, other: dict[str, Any]
) -> None:
    shutil.copytree(found[0], tmp_path / "run")
    with pytest.raises(CheckpointError, match="was begun on another space, or under other bounds"):
        search(tmp_path / "run", resume=True, other=other)


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (float("nan"), "the accuracy is nan; an accuracy is a share in [0, 1]"),
        (RuntimeError("no memory"), "no memory"),
    ],
)
def test_a_search_in_which_all_evaluations_fail_stops_with_the_first_cause(
    search: Search, tmp_path: Path, outcomes: Outcomes, outcome: Any, cause: str
) -> None:
    mended: list[bool] = []
    outcomes(lambda number: None if number == 1 or mended else outcome)  # the first one is the original
    with pytest.raises(TrainingError, match=f"all 5 evaluations have failed, the first one with: {re.escape(cause)}"):
        search(tmp_path / "run")
    records = evaluations_of(tmp_path / "run")
    assert [record.error for record in records] == [cause] * 5
    assert all(record.accuracy is record.score is record.best is None for record in records)
    mended.append(True)
    search(tmp_path / "run", resume=True)
    found = evaluations_of(tmp_path / "run")
    assert [(record.index, record.error) for record in found] == [(index, None) for index in range(1, 6)]


def test_a_failure_among_others_is_recorded_and_passed_over(search: Search, tmp_path: Path, outcomes: Outcomes) -> None:
    outcomes(lambda number: float("nan") if number == 3 else None)
    search(tmp_path / "run")
    assert [record.index for record in evaluations_of(tmp_path / "run") if record.accuracy is None] == [2]


def test_an_original_that_cannot_be_evaluated_stops_the_search(
    search: Search, tmp_path: Path, outcomes: Outcomes
) -> None:
    outcomes(lambda number: 0.0)
    with pytest.raises(TrainingError, match=r"the original network.*nothing right"):
        search(tmp_path / "run")


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    """``outcomes(f)``: the evaluation of number n raises or gives ``f(n)``, unless that is None."""

    def set_outcomes(outcome: Callable[[int], Any]) -> None:
        plain = Drawn.__call__

        def call(self: Drawn, *args: Any) -> float:
            usual = plain(self, *args)
            given = outcome(len(CALLS))
            if isinstance(given, Exception):
                raise given
            return usual if given is None else float(given)

        monkeypatch.setattr(Drawn, "__call__", call)

    return set_outcomes


def test_a_score_that_counts_the_cost_needs_no_budget(search: Search, tmp_path: Path) -> None:
    search(tmp_path / "run", other={"cost": CostSettings(Macs())}, score=compression)
    records = evaluations_of(tmp_path / "run")
    assert records[-1].best == max(record.score or 0 for record in records)


def test_a_space_that_is_used_up_ends_the_search_early(make: Make, tmp_path: Path) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "pointwise"}], include=["layer3*"], tie=["layer3*"])
    compress(make(space=space, cost=CostSettings(Macs(), budget="100%")), tmp_path / "run", {}, until="search")
    assert len(evaluations_of(tmp_path / "run")) == 1  # the original was told
    notes = [record.text for record in records_of(tmp_path / "run") if isinstance(record, Note)]
    assert any(note.startswith("after 1 evaluations the strategy knows no other") for note in notes)


@pytest.mark.parametrize(
    ("proposer", "warned"),
    [
        (functools.partial(LocalSearch, begin=4), False),
        (functools.partial(LocalSearch, begin=5), True),
        (functools.partial(Evolution, population=5), True),
        (RandomSearch, False),
    ],
)
def test_a_search_that_ends_before_it_begins_to_learn_says_so(
    search: Search, tmp_path: Path, proposer: Any, warned: bool
) -> None:
    search(tmp_path / "run", proposer=proposer)
    notes = [record for record in records_of(tmp_path / "run") if isinstance(record, Note)]
    found = [note.level for note in notes if "make this a random search" in note.text]
    assert found == ["warning"] * warned


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cost": CostSettings(Macs(), factor=1.0)}, CostError, "has no use for cost.factor"),
        ({"cost": CostSettings(Macs())}, CostError, "counts accuracy alone, so give cost.budget"),
        ({"cost": CostSettings(Macs(), budget=0.5, begin=0.1)}, CostError, "cost.begin says how a search by gradients"),
        ({"cost": CostSettings(Macs(), budget=0.5, shape=logarithmic)}, CostError, "cost.shape says how a search by"),
        ({"cost": CostSettings(Macs(), budget=0.5, also=(CostSettings(Params()),))}, CostError, "give its budget"),
        ({"cost": CostSettings(Macs(), budget=0.01)}, CostError, "cannot be reached"),
        ({"space": SearchSpace([{"op": "pointwise"}])}, SpaceError, "holds one architecture"),
        ({"scores": scores(proposer=functools.partial(Evolution, population=1))}, SpaceError, "population"),
        ({"scores": scores(proposer=functools.partial(LocalSearch, begin="x"))}, LwdcError, "strategy.proposer cannot"),
        ({"scores": scores(proposer=functools.partial(LocalSearch, begin=-1))}, SpaceError, "from 0 on, found -1"),
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


def test_random_weights_are_not_scored_as_they_are(make: Make) -> None:
    untrained = dataclasses.replace(make().search, epochs=0)
    for evaluator in (SHARED, Refitted(examples=8, images=50)):
        asked = scores(evaluators={"asked": evaluator}, evaluator="asked")
        prepare(make(scores=asked, search=untrained))
        with pytest.raises(LwdcError, match="leaves nothing to choose by"):
            prepare(make(scores=asked, search=untrained, inherit=False))
    prepare(make(search=untrained, inherit=False))  # an evaluator that may train what it scores


def test_a_half_written_line_of_known_evaluations_is_left_out(found: tuple[Path, Architecture], tmp_path: Path) -> None:
    lines = (found[0] / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    architecture = Architecture(first["choices"])
    path = tmp_path / "evaluations.jsonl"
    for cut in (len(lines[0]) - 1, len(lines[0]) // 2):
        path.write_bytes(lines[0] + lines[1][:cut])
        known = Known(path)
        read = known.find(first["fingerprint"], architecture)
        assert read is not None and read[0].accuracy == first["accuracy"]
        known.add("another", architecture, read[0])
        assert Known(path).find("another", architecture) == (read[0], False)
        assert Known(tmp_path / "none", [path]).find("another", architecture) == (read[0], True)
        assert Known(path).find("a third", architecture) is None


def test_an_architecture_asked_for_twice_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwdc.pipeline.known.fingerprint", lambda *_: "here")
    first, second = (Architecture({"conv": {"op": "grouped", "groups": groups}}) for groups in (2, 4))
    subject: Any = types.SimpleNamespace(seed=0)
    alone = [evaluate(Drawn(), subject, architecture).accuracy for architecture in (first, second)]
    judge = Judge(Drawn(), subject, Known(tmp_path / "evaluations.jsonl"))
    assert [found.accuracy for found, _ in judge([first, first, second])] == [alone[0], *alone]
