"""Learned, fixed and WSNet sampling of kernels against a narrow network, trained from scratch at equal size.

    python experiments/nes_sampling/sampling.py fsdd --data DATA            # all runs not yet in results.jsonl
    python experiments/nes_sampling/sampling.py fashion_mnist --data DATA --ratios 4 16
    python experiments/nes_sampling/sampling.py fsdd --data DATA --tune 0.003 10   # dense, validation split only
    python experiments/nes_sampling/sampling.py --summary                   # summary.md and the two plots

One line of results.jsonl is one training. Every method has the same backbone, data, schedule, steps and seeds.
"""

import argparse
import functools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2
from torch import nn

from lwdc import Architecture, SearchSpace, rebuild
from lwdc.backbones import Backbone, create
from lwdc.backbones.audio import Stage
from lwdc.candidates import label
from lwdc.counting import count_macs, count_params
from lwdc.data import DataModule, FashionMnist, Fsdd
from lwdc.pipeline.measures import environment
from lwdc.records import EpochRecord
from lwdc.space import make_plan
from lwdc.training import Fit, Recipe, accuracy
from lwdc.training.fit import derive_seed

HERE = Path(__file__).parent
HARDWARE = "2-core Xeon 2.5 GHz, shared; one thread"
SEEDS = (0, 1, 2)
RATIOS = (4, 16, 2, 8)  # in the order in which they are run

METHODS: dict[str, dict[str, Any]] = {
    "learned": {"op": "epitome", "sampling": "learned"},  # indexing=per_axis, the default
    "fixed": {"op": "epitome", "sampling": "fixed"},
    "wsnet": {"op": "wsnet"},
    "learned_block": {"op": "epitome", "sampling": "learned", "indexing": "per_block"},
    "fixed_block": {"op": "epitome", "sampling": "fixed", "indexing": "per_block"},
}
MAIN = ("learned", "fixed", "wsnet", "narrow")
MATCHED = "learned"  # the method whose parameter count the narrow network has


@dataclass(frozen=True)
class Setting:
    """A data set, a backbone of variable width, and the schedule that all methods share."""

    data: Callable[[Path], DataModule]
    backbone: str
    options: Callable[[float], dict[str, Any]]  # of the backbone, by width
    epochs: int
    batch_size: int
    lr: float


# Kernels of 32, 16 and 16 samples behind the stem: SoundNet's order of layers, scaled to half a second at 8 kHz.
STAGES = (Stage(16, 64, 16, 2), Stage(32, 32, 2, 2), Stage(64, 16, 2, 1), Stage(128, 16, 2, 1))
CHANNELS = (8, 32, 64)

SETTINGS = {
    "fsdd": Setting(
        data=lambda root: Fsdd(root, length=4000, shift=400, valid=300),
        backbone="soundnet8",
        options=lambda width: {"stages": STAGES, "width": width},
        epochs=8,
        batch_size=64,
        lr=1e-2,
    ),
    "fashion_mnist": Setting(
        data=lambda root: FashionMnist(root, crop_padding=2, flip=True, valid=1000, limit_train=5000),
        backbone="cifar_resnet8",
        options=lambda width: {"channels": tuple(max(1, round(width * c)) for c in CHANNELS)},
        epochs=4,
        batch_size=64,
        lr=3e-3,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="?", choices=list(SETTINGS))
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds the data sets")
    parser.add_argument("--methods", nargs="*", default=list(MAIN), choices=[*METHODS, "narrow"])
    parser.add_argument("--ratios", nargs="*", type=int, default=list(RATIOS))
    parser.add_argument("--tune", nargs=2, type=float, metavar=("LR", "EPOCHS"))
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--summary", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.summary:
        summarise(asked.out)
    elif asked.setting is None:
        parser.error("name a setting, or --summary")
    elif asked.tune:
        tune(asked.setting, asked.data, asked.tune[0], int(asked.tune[1]))
    else:
        run_all(asked.setting, asked.data, asked.methods, asked.ratios, asked.out)


def run_all(name: str, root: Path, methods: list[str], ratios: list[int], out: Path) -> None:
    """Train whatever is asked for and not yet in ``out``; one line a run, written when it is done."""
    data = SETTINGS[name].data(root)
    data.prepare(torch.device("cpu"))
    known = {_key(record) for record in _read(out)}
    placed = environment(torch.device("cpu"))
    placed = {key: placed[key] for key in ("lwdc", "commit", "torch", "timm", "python", "threads")}
    for key in _wanted(name, methods, ratios):
        if key not in known:
            record = run(data, *key) | {"environment": placed, "hardware": HARDWARE}
            with out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(*key, record["params"], record["test_accuracy"], f"{record['seconds']:.0f} s", flush=True)


def _wanted(name: str, methods: list[str], ratios: list[int]) -> Iterator[tuple[str, str, int, int]]:
    for seed in SEEDS:
        yield name, "dense", 1, seed
    for ratio in ratios:
        for seed in SEEDS:
            for method in methods:
                yield name, method, ratio, seed


def _key(record: dict[str, Any]) -> tuple[str, str, int, int]:
    return record["setting"], record["method"], record["ratio"], record["seed"]


def run(data: DataModule, name: str, method: str, ratio: int, seed: int) -> dict[str, Any]:
    """One training from scratch. The test set is read once, after it."""
    setting = SETTINGS[name]
    width = matching_width(setting, data, ratio) if method == "narrow" else 1.0
    model = build(setting, data, width, seed)
    sites: dict[str, str] = {}
    left: dict[str, str] = {}
    if method in METHODS:
        torch.manual_seed(derive_seed(seed, "rebuild", 0))
        model, sites, left = replace(model, data, METHODS[method] | {"ratio": ratio})
    recipe = recipe_of(setting.lr, setting.epochs, setting.batch_size)
    fabric = Fabric(accelerator="cpu", devices=1)
    fit = Fit("train", model, data, recipe, seed=seed, fabric=fabric)
    clock = time.perf_counter()
    epochs = [record for record in fit.run() if isinstance(record, EpochRecord)]
    seconds = time.perf_counter() - clock
    return {
        "setting": name,
        "method": method,
        "ratio": ratio,
        "seed": seed,
        "params": count_params(model),
        "macs": count_macs(model, [data.input_size]),
        "test_accuracy": accuracy(model, data.batches("test", 250), fabric),
        "valid_accuracy": epochs[-1].valid_accuracy,
        "train_accuracy": epochs[-1].train_accuracy,
        "seconds": round(seconds, 1),
        "steps": fit.total,
        "width": width,
        "sites": sites,
        "kept": left,
        "config": {
            "backbone": setting.backbone,
            "options": setting.options(width),
            "train": data.num_train(),
            "epochs": setting.epochs,
            "batch_size": setting.batch_size,
            "optimiser": "adamw",
            "weight_decay": WEIGHT_DECAY,
            "lr": setting.lr,
            "schedule": SCHEDULE,
        },
    }


SCHEDULE: dict[str, Any] = {"sched": "cosine", "warmup_epochs": 1}
WEIGHT_DECAY = 0.05


def recipe_of(lr: float, epochs: int, batch_size: int) -> Recipe:
    """AdamW, because the gradient of a shared weight is a sum over its copies, whose scale Adam takes out."""
    optim = functools.partial(create_optimizer_v2, opt="adamw", lr=lr, weight_decay=WEIGHT_DECAY)
    return Recipe(epochs, batch_size, optim, SCHEDULE)


def build(setting: Setting, data: DataModule, width: float, seed: int) -> nn.Module:
    """The backbone with fresh weights."""
    torch.manual_seed(derive_seed(seed, "init", 0))
    backbone = Backbone(setting.backbone, data.num_classes, data.input_size[0], setting.options(width))
    return create(backbone)[0]


def replace(
    model: nn.Module, data: DataModule, candidate: dict[str, Any]
) -> tuple[nn.Module, dict[str, str], dict[str, str]]:
    """The network with the candidate at every site where it fits: also which sites, and why others stay."""
    plan = make_plan(model, SearchSpace([{"op": "original"}, candidate], costlier=True), data.input_size)
    chosen = {choice.site.name: candidate for choice in plan.choices}
    network = rebuild(model, Architecture(chosen), data.input_size)
    return network, {site: label(candidate) for site in chosen}, dict(plan.left_alone)


def matching_width(setting: Setting, data: DataModule, ratio: int) -> float:
    """The width whose network has as many parameters as ``MATCHED`` at this ratio, as nearly as channels allow."""
    dense = build(setting, data, 1.0, 0)
    target = count_params(replace(dense, data, METHODS[MATCHED] | {"ratio": ratio})[0])
    low, high = 0.01, 1.0
    best = high
    for _ in range(16):
        middle = (low + high) / 2
        size = count_params(build(setting, data, middle, 0))
        if abs(size - target) < abs(count_params(build(setting, data, best, 0)) - target):
            best = middle
        low, high = (middle, high) if size < target else (low, middle)
    return best


def tune(name: str, root: Path, lr: float, epochs: int) -> None:
    """Validation accuracy of the dense network, epoch by epoch; the test set is not read."""
    setting = SETTINGS[name]
    data = setting.data(root)
    data.prepare(torch.device("cpu"))
    model = build(setting, data, 1.0, 0)
    recipe = recipe_of(lr, epochs, setting.batch_size)
    for record in Fit("train", model, data, recipe, seed=0, fabric=Fabric(accelerator="cpu", devices=1)).run():
        if isinstance(record, EpochRecord):
            print(
                f"lr {lr} epoch {record.epoch} loss {record.loss:.3f} train {record.train_accuracy:.3f} "
                f"valid {record.valid_accuracy:.3f} {record.seconds:.1f} s",
                flush=True,
            )


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def summarise(file: Path) -> None:
    raise NotImplementedError


if __name__ == "__main__":
    main()
