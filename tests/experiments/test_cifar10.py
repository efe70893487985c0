"""experiments/cifar10: contenders keep the bound, runs resume to the same weights, tables hold what records say."""

import copy
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone, create
from lwdc.backbones.cifar_resnet import PadShortcut
from lwdc.counting import count_macs
from lwdc.data import Cifar10, CropAndFlip, InMemory, Labelled, Preprocessing
from lwdc.errors import LwdcError
from lwdc.folders import CHECKPOINT
from lwdc.pipeline import Interrupted, prepare
from lwdc.records import Record
from lwdc.training import accuracy

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "cifar10"))

import contend
from contenders import CONTENDERS, Job, Outcome, random_architecture
from narrow import narrow
from pruning import make_pruner, prune_to, shaped_like
from record import measure
from results import add_record, recorded
from setting import INPUT_SIZE, MEAN, NETWORKS, POINTS, STD, Entry, Setting
from shortcuts import Select, selecting, with_selecting_shortcuts
from summary import summarise

BACKBONE = Backbone("cifar_resnet20", 10, 3)
SHORT = ("finetune.batch_size=16", "strategy.batch_size=16", "strategy.recalibrate_batches=1", "train.batch_size=16")


class Noise(InMemory):
    """Few images, of nothing."""

    name = "noise"
    class_names = Cifar10.class_names

    def __init__(self) -> None:
        preprocessing = Preprocessing(INPUT_SIZE, channel_order="RGB", scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3)
        super().__init__(preprocessing, augmentation=CropAndFlip(4, True), valid=20, limit_train=32, split_seed=0)

    def read(self) -> tuple[Labelled, Labelled]:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(256, (100, *INPUT_SIZE), generator=rng, dtype=torch.uint8)
        labels = torch.arange(100) % 10
        return Labelled(images[:80], labels[:80]), Labelled(images[80:], labels[80:])


class StopAfter:
    """A sink that stops training after some steps, as ``--minutes`` does after some time."""

    def __init__(self, steps: int) -> None:
        self.left, self.deadline = steps, contend.Deadline(0)

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        self.left -= 1
        if self.left == 0:
            self.deadline.progress(phase, epoch, epochs, step, steps, loss)

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def entry(contender: str, point: float = 2.1, seed: int = 0, changes: tuple[str, ...] = ()) -> Entry:
    return Entry(Setting("resnet20", 2, 1, True, changes), contender, point, seed)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Fresh ones, of the network that the runs here are of."""
    path = tmp_path / "weights.safetensors"
    save_file(Backbone("cifar_resnet8", 10, 3).create().state_dict(), path)
    return path


@pytest.fixture
def job(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``job(contender, folder, sinks)`` of a smaller network, on few images."""
    monkeypatch.setitem(NETWORKS, "resnet20", "cifar_resnet8")

    def make(contender: str, folder: str = "run", sinks: tuple[Any, ...] = ()) -> Job:
        asked = entry(contender, changes=SHORT)
        settings, config = asked.configure(tmp_path, weights, 1)
        settings = dataclasses.replace(settings, data=Noise())
        return Job(asked, settings, config, tmp_path / folder / asked.name, tmp_path / "results.jsonl", sinks)

    return make


@pytest.mark.parametrize("point", [2.1, 8.0])
def test_narrow_has_at_most_the_macs_of_the_bound_and_nearly_as_many(point: float) -> None:
    bound = entry("narrow", point).bound()
    macs = count_macs(narrow(BACKBONE, bound, INPUT_SIZE).create(), [INPUT_SIZE])
    assert 0.95 * bound < macs <= bound


@pytest.mark.parametrize("point", [1.5, 8.0])
def test_random_architectures_have_equal_macs_and_differ_by_seed(tmp_path: Path, point: float) -> None:
    save_file(BACKBONE.create().state_dict(), tmp_path / "weights.safetensors")
    asked = entry("random", point, changes=SHORT)
    settings, _ = asked.configure(tmp_path, tmp_path / "weights.safetensors", 1)
    prepared, bound = prepare(dataclasses.replace(settings, data=Noise())), asked.bound()
    supernet = prepared.supernet(prepared.model)
    found = [random_architecture(supernet, prepared.table, bound, seed) for seed in (0, 1)]
    assert all(0.95 * bound < prepared.table.of(architecture) <= bound for architecture in found)
    assert found[0] != found[1]


@pytest.mark.parametrize("contender", ["narrow", "random", "trained_on"])
def test_an_interrupted_run_ends_with_the_same_weights(job: Any, contender: str) -> None:
    straight = CONTENDERS[contender](job(contender, "straight"))
    with pytest.raises(Interrupted):
        CONTENDERS[contender](job(contender, "stopped", (StopAfter(2),)))
    going_on = job(contender, "stopped")
    assert (going_on.folder / CHECKPOINT).is_file()
    resumed = CONTENDERS[contender](going_on)
    assert resumed.parts["finetune"]["steps"] == straight.parts["finetune"]["steps"] == 2 * 2
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_an_architecture_from_scratch_is_that_of_the_recorded_run_with_fresh_weights(job: Any, tmp_path: Path) -> None:
    fresh = job("random_scratch")
    with pytest.raises(LwdcError, match=f"no run of random with this .* {fresh.entry.name} trains"):
        CONTENDERS["random_scratch"](fresh)
    other = job("random")  # in another precision, which is another computation of the same
    other.settings.data.prepare(torch.device("cpu"))
    setting = dataclasses.replace(other.entry.setting, changes=(*SHORT, "compute.precision=bf16-mixed"))
    done = dataclasses.replace(other, entry=dataclasses.replace(other.entry, setting=setting))
    found = CONTENDERS["random"](done)
    add_record(tmp_path / "results.jsonl", measure(done, found, {"process": 1, "gpu": 0}))
    network = CONTENDERS["random_scratch"](fresh).network
    shapes = [{name: value.shape for name, value in n.state_dict().items()} for n in (found.network, network)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(next(found.network.parameters()), next(network.parameters()))
    assert Architecture.load(fresh.folder / "architecture.json") == Architecture.load(done.folder / "architecture.json")


def test_a_finished_run_is_recorded_once(job: Any, tmp_path: Path) -> None:
    done = job("narrow")
    done.settings.data.prepare(torch.device("cpu"))
    network = narrow(done.backbone, done.entry.bound(), INPUT_SIZE).create()
    outcome = Outcome(network, {"finetune": {"seconds": 1.0, "steps": 4}})
    record = measure(done, outcome, {"process": 1, "gpu": 0})
    add_record(tmp_path / "results.jsonl", record)
    assert recorded(tmp_path / "results.jsonl") == {done.entry}
    assert record["macs"] <= record["bound"]
    assert record["bytes"]["onnx"] == (done.folder / "model.onnx").stat().st_size
    assert str(tmp_path) not in json.dumps(record["config"])


def test_the_same_shortcut_by_another_name() -> None:
    shortcut = PadShortcut(16, 32, 2)
    images = torch.randn(2, 16, 8, 8)
    assert torch.equal(selecting(shortcut, 16)(images), shortcut(images))


def test_removing_channels_of_a_shortcut_moves_no_other() -> None:
    shortcut = selecting(PadShortcut(4, 8, 2), 4)  # outputs 2 to 5 are inputs 0 to 3
    images = torch.randn(2, 4, 8, 8)
    expected = shortcut(images)
    shortcut.drop_inputs([1])
    shortcut.drop_outputs([0, 4])
    expected[:, 3] = 0  # what came from input 1
    assert torch.equal(shortcut(images[:, [0, 2, 3]]), expected[:, [1, 2, 3, 5, 6, 7]])


@pytest.mark.needs("cifar-10-batches-py", "weights")
def test_light_pruning_keeps_the_accuracy_and_the_network_loads_again(data_root: Path) -> None:
    pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed: make peers, and run with its python")
    data = Cifar10(data_root, mean=MEAN, std=STD)
    data.prepare(torch.device("cpu"))
    model = create(BACKBONE, weights=str(data_root / "weights" / "cifar10_resnet20.safetensors"))[0].eval()
    network, images = copy.deepcopy(model), torch.randn(2, *INPUT_SIZE)
    pruner = make_pruner(network, network.linear, INPUT_SIZE)
    torch.testing.assert_close(network(images), model(images))
    bound = entry("depgraph", 1.05).bound()
    prune_to(network, pruner, bound, INPUT_SIZE)
    assert 0.95 * bound < count_macs(network, [INPUT_SIZE]) <= bound
    batches = [next(data.batches("valid", 500))]
    assert accuracy(network, batches) > accuracy(model, batches) - 0.02
    loaded = shaped_like(copy.deepcopy(model), network.state_dict())
    assert torch.equal(loaded(images), network(images))


def test_selecting_shortcuts_change_nothing_in_a_network() -> None:
    network = BACKBONE.create().eval()
    images = torch.randn(2, *INPUT_SIZE)
    expected = network(images)
    assert sum(isinstance(module, Select) for module in with_selecting_shortcuts(network).modules()) == 2
    assert torch.equal(network(images), expected)


def test_the_table_holds_mean_and_spread_of_the_records(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    accuracies = (0.9012, 0.9034, 0.8999)
    rows = (("original", 1.0, (0.9173,)), ("trained_on", 1.0, (0.9181,)), ("narrow", 2.1, accuracies))
    for contender, point, values in rows:
        for seed, value in enumerate(values):
            half = ("bf16-mixed", ("compute.precision=bf16-mixed",)) if seed else ("32-true", ())
            asked = entry(contender, point, seed, half[1])
            add_record(file, made_up(asked, value, seconds=60.0 / point, precision=half[0]))
    networks = {entry("narrow", 2.1, 0).name: {b: {"median": 1.25} for b in ("1", "64")}}
    file.with_name("latency.json").write_text(json.dumps({"networks": networks}))
    row = next(line for line in summarise(file).splitlines() if "| narrow |" in line)
    percent = [100 * value for value in accuracies]
    mean, spread = statistics.mean(percent), statistics.stdev(percent)
    cells = row.strip("| ").split(" | ")
    assert cells[:5] == ["2.1x", "narrow", f"{mean:.2f}", f"{spread:.2f}", f"{mean - 91.73:+.2f}"]
    assert cells[5] == "90.12 90.34 89.99"
    assert "1.25" in cells
    assert cells[-5:-3] == ["29", "0.48"]  # seconds, and of those of training on
    assert cells[-2:] == ["0123456", "32-true bf16-mixed"]
    assert (tmp_path / "summary.md").read_text() == summarise(file)
    assert len(list(tmp_path.glob("*.svg"))) == 3


def made_up(asked: Entry, test_accuracy: float, seconds: float = 60.0, precision: str = "32-true") -> dict[str, Any]:
    return {
        "contender": asked.contender, "point": asked.point, "seed": asked.seed, "test_accuracy": test_accuracy,
        "valid_accuracy": 0.9, "macs": 40_000_000 / asked.point, "params": 100_000, "folder": asked.name,
        "bytes": {"onnx": 1000, "safetensors": 900}, "seconds": {"all": seconds},
        "peak_bytes": {"process": 10**8, "gpu": 0}, "setting": asked.setting.facts(),
        "environment": {"commit": "0123456789abcdef"}, "config": {"compute": {"precision": precision}},
    }  # fmt: skip


def test_all_entries_come_in_the_order_of_work() -> None:
    entries = list(contend.all_entries(Setting("resnet20", 10, 5)))
    assert [asked.point for asked in entries if asked.contender == "lwdc"] == [p for p in POINTS for _ in range(3)]
    uncompressed = [(asked.contender, asked.seed) for asked in entries if asked.point == 1]
    assert uncompressed == [("original", 0), *(("trained_on", seed) for seed in range(3))]
    at = [asked.contender for asked in entries]
    for found in ("lwdc", "random"):
        assert at.index(found) < at.index(f"{found}_scratch")  # which trains its architecture


def test_a_record_leads_back_to_its_entry() -> None:
    asked = entry("lwdc", 4.0, 2, SHORT)
    facts = json.loads(json.dumps(made_up(asked, 0.5)))
    assert Entry.of(facts) == asked
    assert facts["folder"] != dataclasses.replace(asked, setting=Setting("resnet20", 2, 1)).name


def test_a_wish_that_cannot_be_met_is_one_line(capsys: pytest.CaptureFixture[str], weights: Path) -> None:
    assert contend.main(["run", "narrow", "--epochs", "1", "--weights", str(weights)]) == 2
    assert capsys.readouterr().err.startswith("error: of 1 epochs 0 cannot be the search's")
