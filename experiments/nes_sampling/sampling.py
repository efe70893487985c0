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
import math
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
from lwdc.candidates.sampling import Starts
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
        data=lambda root: FashionMnist(root, crop_padding=2, flip=True, valid=500, limit_train=3000),
        backbone="cifar_resnet8",
        options=lambda width: {"channels": tuple(max(1, round(width * c)) for c in CHANNELS)},
        epochs=3,
        batch_size=32,
        lr=1e-2,
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
    starts = [m for m in model.modules() if isinstance(m, Starts) and m.learned]
    began = [m.share.detach() * m.ranges for m in starts]
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
        "moved": [round(float((m.settled - b).abs().mean()), 3) for m, b in zip(starts, began, strict=True)],
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
    """A table and a plot for each setting, from the finished runs, beside their file."""
    by_setting: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in _read(file):
        by_setting[record["setting"]].append(record)
    text = []
    for name, records in by_setting.items():
        rows = _rows(records)
        text += [f"## {name}", "", *_table(rows), "", f"![test accuracy against parameters]({name}.svg)", ""]
        file.with_name(f"{name}.svg").write_text(plot(name, rows))
    file.with_name("summary.md").write_text("\n".join(text))
    print("\n".join(text))


@dataclass(frozen=True)
class Row:
    """The runs of one method at one ratio. Accuracies are in percent."""

    method: str
    ratio: int
    params: int
    macs: int
    test: list[float]  # by seed
    train: float
    seconds: float
    kept: int  # convolutions beside the stem at which the method does not fit

    @property
    def mean(self) -> float:
        return statistics.mean(self.test)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds."""
        return statistics.stdev(self.test) if len(self.test) > 1 else 0.0


def _rows(records: list[dict[str, Any]]) -> list[Row]:
    runs: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r["ratio"], _ORDER.index(r["method"]), r["seed"])):
        runs[record["ratio"], record["method"]].append(record)
    return [
        Row(
            method=method,
            ratio=ratio,
            params=same[0]["params"],
            macs=same[0]["macs"],
            test=[100 * r["test_accuracy"] for r in same],
            train=statistics.mean(100 * r["train_accuracy"] for r in same),
            seconds=statistics.mean(r["seconds"] for r in same),
            kept=sum("conv" in site and "fewer than two" in reason for site, reason in same[0]["kept"].items()),
        )
        for (ratio, method), same in runs.items()
    ]


_ORDER = ("dense", *METHODS, "narrow")


def _table(rows: list[Row]) -> list[str]:
    dense = next(row.params for row in rows if row.method == "dense")
    lines = [
        "| ratio asked | method | parameters | in all | MACs | test, mean | spread | seeds | training | s a run |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        kept = f" ({r.kept} kept)" if r.kept else ""
        seeds = " ".join(f"{value:.1f}" for value in r.test)
        lines.append(
            f"| {r.ratio} | {r.method}{kept} | {r.params:,} | {dense / r.params:.1f}x | {r.macs / 1e6:.2f}M "
            f"| {r.mean:.1f} | {r.spread:.1f} | {seeds} | {r.train:.1f} | {r.seconds:.0f} |"
        )
    return lines


_COLOURS = {
    "dense": "#000000",
    "learned": "#d62728",
    "fixed": "#1f77b4",
    "wsnet": "#2ca02c",
    "narrow": "#7f7f7f",
    "learned_block": "#ff9896",
    "fixed_block": "#aec7e8",
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 400, 60, 40, 140, 50


def plot(name: str, rows: list[Row]) -> str:
    """An svg: test accuracy over parameters on a logarithmic axis, bars from the worst to the best seed."""
    low = 5 * math.floor(min(min(row.test) for row in rows) / 5)
    high = 5 * math.ceil(max(max(row.test) for row in rows) / 5)
    first, last = (math.log2(f(row.params for row in rows)) for f in (min, max))

    def x(params: int) -> float:
        share = (math.log2(params) - first) / (last - first)
        return _LEFT + 15 + share * (_WIDTH - _LEFT - _RIGHT - 30)

    def y(percent: float) -> float:
        return _TOP + (high - percent) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">{name}: test accuracy in percent; bars: worst to best seed</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">parameters</text>',
    ]
    for percent in range(low, high + 1, 5):
        parts.append(f'<path d="M{_LEFT} {y(percent):.1f}H{right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}</text>')
    for params in sorted({row.params for row in rows if row.method in ("dense", MATCHED)}):
        parts.append(f'<path d="M{x(params):.1f} {floor}v5" stroke="black"/>')
        parts.append(f'<text x="{x(params):.1f}" y="{floor + 18}" text-anchor="middle">{params:,}</text>')
    shown = [method for method in _ORDER if any(row.method == method for row in rows)]
    for index, method in enumerate(shown):
        colour, label_y = _COLOURS[method], _TOP + 18 * index + 10
        points = sorted((x(row.params), row) for row in rows if row.method == method)
        path = " ".join(f"{at:.1f},{y(row.mean):.1f}" for at, row in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for at, row in points:
            parts.append(f'<path d="M{at:.1f} {y(min(row.test)):.1f}V{y(max(row.test)):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{at:.1f}" cy="{y(row.mean):.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<circle cx="{right + 14}" cy="{label_y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{right + 24}" y="{label_y}">{method}</text>')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{floor}H{right}" fill="none" stroke="black"/>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
