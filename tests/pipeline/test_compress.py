"""The whole line: what it leaves behind, and that it ends the same whenever it was broken off."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lwdc
from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import Macs, Params
from lwdc.counting import count_macs, count_params
from lwdc.errors import (
    BackboneError,
    CheckpointError,
    CostError,
    DataError,
    ExportError,
    LwdcError,
    SpaceError,
    TrainingError,
)
from lwdc.export import load, run_onnx, run_torch_export
from lwdc.folders import CHECKPOINT
from lwdc.pipeline import BackboneSettings, CostSettings, Settings, compress, prepare
from lwdc.pipeline import run as running
from lwdc.pipeline.prepare import prepare_training
from lwdc.records import EpochRecord, Note, Record, Result, as_dict
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.tracking import parse_record, read_records
from lwdc.training import Recipe, accuracy, load_checkpoint, save_checkpoint

MakeSettings = Callable[..., Settings]
Finished = tuple[Path, Settings, Result]


def records_of(folder: Path) -> list[Record]:
    return [parse_record(line) for line in read_records(folder / "records.jsonl")]


def weights_of(folder: Path) -> dict[str, Any]:
    """Every weight that a run leaves, by file and name."""
    found: dict[str, Any] = {}
    for name in ("baseline", "discretised", "finetuned"):
        found |= {f"{name} {key}": value for key, value in load_file(folder / f"{name}.safetensors").items()}
    return found | {f"supernet {k}": v for k, v in load_checkpoint(folder / "supernet.pt")["state"].items()}


def test_a_run_leaves_what_the_design_names(finished: Finished) -> None:
    folder, _, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        "records.jsonl", "checkpoint.pt", "architecture.json", "model.safetensors", "model.json", "model.pt2",
        "model.onnx", "summary.json", "baseline.safetensors", "supernet.pt", "discretised.safetensors",
        "finetuned.safetensors", "costs.json", "model_card.md", ".checkpoint.pt.lock",
    }  # fmt: skip


def test_the_exported_files_compute_what_the_finetuned_network_does(finished: Finished) -> None:
    folder, settings, result = finished
    network = load(folder)
    images = next(settings.data.batches("test", 20))[0]
    with torch.no_grad():
        expected = network(images)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in load_file(folder / "finetuned.safetensors").items())
    for run in (run_onnx(folder / "model.onnx"), run_torch_export(folder / "model.pt2")):
        assert torch.allclose(run(images), expected, atol=1e-4)
    assert [record.format for record in result.exports] == ["safetensors", "torch_export", "onnx"]
    for record in result.exports:
        assert record.bytes == (folder / record.file).stat().st_size
        assert record.max_difference <= record.tolerance and record.top1_agrees


def test_the_summarys_numbers_are_those_counted_again(finished: Finished) -> None:
    folder, settings, result = finished
    size, after, before = settings.data.input_size, load(folder), baseline_of(folder)
    for measured, network in ((result.before, before), (result.after, after)):
        assert measured.macs == count_macs(network, [size])
        assert measured.params == count_params(network)
        assert set(measured.latency_ms) == {"1", "3"} and min(measured.latency_ms.values()) > 0
        assert measured.onnx_ms is not None and set(measured.onnx_ms) == {"1", "3"}
    assert result.after.bytes == (folder / "finetuned.safetensors").stat().st_size
    assert result.after.macs <= 0.5 * result.before.macs
    assert result.before.macs - result.after.macs == sum(s.macs_before - s.macs_after for s in result.sites)
    assert result.before.params - result.after.params == sum(s.params_before - s.params_after for s in result.sites)
    for split, found in (("valid", result.valid), ("test", result.test)):
        assert found.baseline == accuracy(before, settings.data.batches(split, 50))
        assert found.finetuned == accuracy(after, settings.data.batches(split, 50))


def baseline_of(folder: Path) -> nn.Module:
    network = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8)}).create()
    network.load_state_dict(load_file(folder / "baseline.safetensors"))
    return network


def test_the_summary_is_the_result_and_the_last_record(finished: Finished) -> None:
    folder, _, result = finished
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(as_dict(result)))
    assert records_of(folder)[-1] == result
    assert result.name == "cifar_resnet8 on digits"
    (cost,) = result.costs
    assert (cost.name, cost.unit, cost.factor, cost.budget) == ("macs", "MAC", None, "0.5")
    assert (cost.before, cost.after) == (result.before.macs, result.after.macs)
    assert cost.after <= cost.bound == result.before.macs // 2
    assert cost.measured is None and cost.agreement is None
    assert result.environment["lwdc"] == lwdc.__version__ and result.environment["torch"] == torch.__version__
    assert set(result.seconds) == {"baseline", "search", "finetune", "export"}


def test_the_sites_are_those_of_the_architecture_file(finished: Finished) -> None:
    folder, _, result = finished
    architecture = Architecture.load(folder / "architecture.json")
    assert [site.site for site in result.sites] == list(architecture.choices)
    assert [site.operator.split("_")[0] for site in result.sites] == [c["op"] for c in architecture.choices.values()]


def test_records_follow_the_phases(finished: Finished) -> None:
    epochs = [(r.phase, r.epoch, r.epochs) for r in records_of(finished[0]) if isinstance(r, EpochRecord)]
    assert epochs == [("baseline", 1, 1), ("search", 1, 2), ("search", 2, 2), ("finetune", 1, 1)]


def test_a_finished_run_is_shown_again_and_not_run(finished: Finished, tmp_path: Path) -> None:
    source, settings, result = finished
    folder = shutil.copytree(source, tmp_path / "copy")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "records.jsonl"}

    class Screen:
        def __init__(self) -> None:
            self.seen: list[Record] = []

        def write(self, record: Record) -> None:
            self.seen.append(record)

        def close(self) -> None:
            pass

    screen = Screen()
    assert compress(settings, folder, {"seed": 0}, [screen], resume=True) == result
    assert screen.seen == [result]
    assert records_of(folder) == records_of(source)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != "records.jsonl"} == before


def test_a_trained_baseline_is_reused(finished: Finished, settings: MakeSettings, tmp_path: Path) -> None:
    source, _, _ = finished
    compress(settings(baseline=source, seed=5), tmp_path / "run", {}, until="baseline")
    ours, theirs = (load_file(f / "baseline.safetensors") for f in (tmp_path / "run", source))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not any(isinstance(record, EpochRecord) for record in records_of(tmp_path / "run"))


def test_a_baseline_that_is_not_there_or_of_another_network_is_refused(
    finished: Finished, settings: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=r"baseline=.* has no baseline\.safetensors; name the folder of a run"):
        compress(settings(baseline=tmp_path), tmp_path / "run", {})
    wider = BackboneSettings("cifar_resnet8", {"channels": (8, 8, 8)})
    with pytest.raises(BackboneError, match=r"conv1\.weight"):
        compress(settings(baseline=finished[0], backbone=wider), tmp_path / "run", {})


def test_a_baseline_that_was_trained_with_branches_is_merged(settings: MakeSettings, tmp_path: Path) -> None:
    branched = Backbone("repghostnet_050", 10, 1).create().eval()
    save_file(branched.state_dict(), tmp_path / "baseline.safetensors")
    merged = BackboneSettings("repghostnet_050", reparameterise=True)
    model = prepare_training(settings(backbone=merged, baseline=tmp_path)).model.eval()
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(images), branched(images), rtol=1e-4, atol=1e-5)
    assert len(model.state_dict()) < len(branched.state_dict())


def test_no_epochs_take_the_weights_of_a_file_as_they_are(
    finished: Finished, settings: MakeSettings, tmp_path: Path
) -> None:
    weights = finished[0] / "baseline.safetensors"
    backbone = BackboneSettings("cifar_resnet8", {"channels": (4, 8, 8)}, weights=str(weights))
    none = settings().train
    compress(
        settings(backbone=backbone, train=dataclasses.replace(none, epochs=0)), tmp_path / "run", {}, until="baseline"
    )
    ours, theirs = load_file(tmp_path / "run" / "baseline.safetensors"), load_file(weights)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    none = dataclasses.replace(none, epochs=0)
    bare = settings(backbone=dataclasses.replace(backbone, weights=None), train=none)
    compress(bare, tmp_path / "bare", {}, until="baseline")
    timms = dataclasses.replace(backbone, weights=None, options=backbone.options | {"checkpoint_path": str(weights)})
    compress(settings(backbone=timms, train=none), tmp_path / "timms", {}, until="baseline")
    compress(settings(baseline=finished[0], train=none), tmp_path / "reused", {}, until="baseline")
    compress(settings(baseline=finished[0], train=none), tmp_path / "reused", {}, until="baseline", resume=True)
    said = "no weights are given by backbone.weights or backbone.pretrained, and train.epochs=0 trains none"
    for folder, says in (("run", False), ("timms", False), ("reused", False), ("bare", True)):
        records = records_of(tmp_path / folder)
        assert (Note(said, "info") in records) == says
        valid = load_checkpoint(tmp_path / folder / CHECKPOINT)["done"]["baseline"]["valid"]
        assert Note(f"the baseline has {valid:.1%} of the validation examples right", "info") in records
        warned = any(isinstance(r, Note) and "hardly better than guessing among 10 classes" in r.text for r in records)
        assert warned == (valid < 0.19 and folder != "bare")


def test_a_network_from_scratch_inherits_the_architecture_and_no_weights(
    finished: Finished, settings: MakeSettings, tmp_path: Path
) -> None:
    still = dataclasses.replace(settings().finetune, epochs=0)
    base = settings(baseline=finished[0], finetune=still)
    for name, from_scratch in (("kept", False), ("scratch", True)):
        compress(dataclasses.replace(base, from_scratch=from_scratch), tmp_path / name, {}, until="finetune")
    kept, scratch = (load_file(tmp_path / name / "finetuned.safetensors") for name in ("kept", "scratch"))
    architectures = [Architecture.load(tmp_path / name / "architecture.json") for name in ("kept", "scratch")]
    assert architectures[0] == architectures[1]
    assert {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in scratch.items()}
    changed = [k for k in kept if k.endswith("weight") and "bn" not in k and torch.equal(kept[k], scratch[k])]
    assert changed == []
    discretised = load_file(tmp_path / "kept" / "discretised.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in discretised.items())


@pytest.mark.parametrize(
    ("first", "warning"),
    [
        ("original", "every site kept its original layer: nothing was compressed"),
        ("skip", "6 of 6 sites chose 'skip', which has no weights"),
    ],
)
def test_a_search_that_found_nothing_or_fled_says_so(
    first: str, warning: str, settings: MakeSettings, tmp_path: Path
) -> None:
    """Without a step of search every gate takes its first candidate."""
    space = SearchSpace([{"op": first}, {"op": "grouped", "groups": 2}, {"op": "pointwise"}])
    given = settings(
        backbone=BackboneSettings("cifar_resnet8", {"channels": (4, 4, 4)}),
        space=space,
        cost=CostSettings(Macs(), factor=0.0),
        prior=0.0,
        **{phase: dataclasses.replace(settings().train, epochs=0) for phase in ("train", "search", "finetune")},
    )
    result = compress(given, tmp_path / "run", {})
    assert result is not None
    assert len(result.warnings) == 1
    assert warning in result.warnings[0]
    assert Note(result.warnings[0], "warning") in records_of(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"] == list(result.warnings)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"train": {"batch_size": 500}}, DataError, "the batch size is 500, digits has 192 training examples"),
        ({"finetune": {"batch_size": 193}}, DataError, "the batch size is 193"),
        ({"backbone": BackboneSettings("resnet8_cifar")}, BackboneError, "resnet8_cifar"),
        ({"backbone": BackboneSettings("cifar_vgg16_bn")}, BackboneError, r"cannot take inputs of \(1, 8, 8\)"),
        ({"backbone": BackboneSettings("cifar_resnet8", weights="gone.pt")}, BackboneError, r"gone\.pt"),
        ({"space": SearchSpace(include=("layer9.*",))}, SpaceError, "no site matches"),
        ({"cost": CostSettings(Macs(), budget=0.01)}, CostError, "cannot be reached: the smallest macs of this space"),
        ({"cost": CostSettings(Macs(), factor=-1.0)}, CostError, "must not be negative, found -1.0"),
        ({"cost": CostSettings(Macs(), factor=1.0, budget=0.5)}, CostError, "not both and not neither"),
        ({"cost": CostSettings(Macs())}, CostError, "not both and not neither"),
        (
            {"cost": CostSettings(Macs(), budget=0.5, also=(CostSettings(Macs(), budget=0.4),))},
            CostError,
            "the cost 'macs' is asked for twice",
        ),
        (
            {"cost": CostSettings(Macs(), budget=0.3, also=(CostSettings(Params(), budget=1e9),))},
            CostError,
            "is a share of the original",
        ),
        ({"formats": ("onxx",)}, ExportError, "unknown export format 'onxx'. Did you mean 'onnx'"),
        ({"mixing": "kernels"}, SpaceError, "unknown mixing 'kernels'.*Known: auto, branches"),
        ({"inherit": False, "search": {"epochs": 0}}, LwdcError, "leaves nothing to choose by"),
        ({"latency_batches": (1, 0)}, LwdcError, "latency_batches are batch sizes from 1 on, found 0"),
        ({"decide_from": 1.5}, LwdcError, r"a share of the search in \[0, 1\], found 1.5"),
        ({"rest_from": 90}, LwdcError, r"strategy.rest_from is a share of the search in \[0, 1\], found 90"),
        ({"weights": "best"}, LwdcError, "unknown strategy.weights 'best'. Did you mean 'better'"),
        ({"refit_images": 1}, LwdcError, "2 or more, or 0 for none; found 1"),
        ({"decide": -1.0}, LwdcError, "strategy.decide must not be negative"),
        ({"prior": -1.0}, LwdcError, "strategy.prior must not be negative, found -1.0: it would favour what"),
        ({"recalibrate_batches": -1}, LwdcError, "from 0 on, found -1"),
        ({"prior": float("nan")}, LwdcError, "strategy.prior is a number, found nan"),
        ({"decide_from": None}, LwdcError, "strategy.decide_from is a number, found None"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], kind: type[LwdcError], message: str, settings: MakeSettings, tmp_path: Path
) -> None:
    def run() -> None:
        given = settings()
        for key, value in changes.items():
            value = dataclasses.replace(getattr(given, key), **value) if isinstance(value, dict) else value
            given = dataclasses.replace(given, **{key: value})
        compress(given, tmp_path / "run", {})

    with pytest.raises(kind, match=message):
        run()
    assert not (tmp_path / "run").exists()


def test_a_search_begins_with_what_operators_keep(settings: MakeSettings) -> None:
    for prior, inherit in ((0.0, True), (4.0, False), (4.0, True)):
        prepared = prepare(settings(prior=prior, inherit=inherit))
        logits = [op.gate.logits for op in selection_ops(prepared.supernet(prepared.model)).values()]
        assert all(bool(given.any()) == (prior > 0 and inherit) for given in logits)


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(
    settings: MakeSettings, tmp_path: Path
) -> None:
    class Explodes(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            self.count = getattr(self, "count", 0) + 1
            if self.count == 4:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.data.fill_(torch.nan)

    folder = tmp_path / "run"
    given = settings(train=Recipe(2, 64, functools.partial(Explodes, lr=0.01)))
    with pytest.raises(
        TrainingError, match=r"phase 'baseline' is nan at step 5 of 6\. .* last good checkpoint, after step 3, is in"
    ):
        compress(given, folder, {})
    state = load_checkpoint(folder / "checkpoint.pt")["fit"]["state"]
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values())


class Died(BaseException):
    """Stands for a process that is gone."""


def dying_at(number: int, *, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die when it saves its checkpoint for the ``number``-th time, before or after it is written."""
    count = 0

    def save(path: Path, state: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == number and not after:
            raise Died
        save_checkpoint(path, state)
        if count == number:
            raise Died

    monkeypatch.setattr(running, "save_checkpoint", save)


@pytest.fixture(scope="module")
def undisturbed(settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    two = {phase: dataclasses.replace(getattr(settings(), phase), epochs=2) for phase in ("train", "search")}
    given = settings(from_scratch=True, **two, finetune=dataclasses.replace(settings().finetune, epochs=2))
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    compress(given, folder, {})
    return given, folder


def figures_of(folder: Path) -> list[Any]:
    """The records without what depends on the clock or says that the run was resumed."""
    found: list[Any] = []
    for record in records_of(folder):
        if isinstance(record, EpochRecord):
            found.append(dataclasses.replace(record, seconds=0.0))
        elif isinstance(record, Note) and "going on" not in record.text:
            found.append(record.text.replace(str(folder), ""))
        elif isinstance(record, Result):
            found.append((record.test, record.valid, record.after.macs, [site.operator for site in record.sites]))
    return found


def check_death(number: int, after: bool, undisturbed: tuple[Settings, Path], folder: Path) -> None:
    given, expected = undisturbed
    with pytest.MonkeyPatch.context() as patch:
        dying_at(number, after=after, monkeypatch=patch)
        with pytest.raises(Died):
            compress(given, folder, {})
    torch.rand(number)
    if (folder / "checkpoint.pt").exists():
        compress(given, folder, {}, resume=True)
    else:  # nothing had begun: the same command again
        compress(given, folder, {})
    ours, theirs = weights_of(folder), weights_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert figures_of(folder) == figures_of(expected)


@pytest.mark.parametrize(("number", "after"), [(2, False), (6, True), (9, False), (9, True), (11, True)])
def test_a_run_that_dies_around_a_checkpoint_ends_as_if_it_had_not(
    number: int, after: bool, undisturbed: tuple[Settings, Path], tmp_path: Path
) -> None:
    check_death(number, after, undisturbed, tmp_path / "run")


@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a process that is gone closes its files
@pytest.mark.parametrize("number", range(1, 13))  # the start, the plan, six epochs, four phases
@pytest.mark.parametrize("after", [False, True])
def test_a_run_may_die_around_any_checkpoint(
    number: int, after: bool, undisturbed: tuple[Settings, Path], tmp_path: Path
) -> None:
    check_death(number, after, undisturbed, tmp_path / "run")


def test_a_folder_that_holds_a_run_is_refused(finished: Finished, settings: MakeSettings) -> None:
    with pytest.raises(CheckpointError, match=r"holds a run already\. Go on with it by resume="):
        compress(settings(), finished[0], {})
