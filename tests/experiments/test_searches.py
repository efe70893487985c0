"""experiments/searches: every sweep of every task is one that lwdc would begin."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from lwdc.configuring import make_settings
from lwdc.data import CropAndFlip, InMemory, Labelled, Preprocessing
from lwdc.pipeline import Settings, prepare

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "searches"))

import compare

SWEEPS = [(task, sweep) for task in compare.TASKS for sweep in compare.TASKS[task].sweeps]


def laid(task: str, sweep: str) -> tuple[str, bool, tuple[str, ...]]:
    """What a run lays on its network: that of two sweeps may be the same."""
    overrides = compare.TASKS[task].sweeps[sweep].overrides
    scored = any(override.startswith("strategy=") for override in overrides)
    return task, scored, tuple(override for override in overrides if override.startswith("space."))


DIFFERENT = list({laid(*each): each for each in reversed(SWEEPS)}.values())[::-1]  # the first of those that are alike


class Noise(InMemory):
    """As many classes and as large images as a data set has, of nothing."""

    name = "noise"

    def __init__(self, classes: int, size: tuple[int, int, int]) -> None:
        self.class_names = tuple(map(str, range(classes)))
        channels = size[0]
        preprocessing = Preprocessing(
            size, channel_order="RGB" if channels == 3 else "L", scale=1 / 255,
            mean=(0.5,) * channels, std=(0.25,) * channels,
        )  # fmt: skip
        super().__init__(preprocessing, augmentation=CropAndFlip(4, True), valid=20, limit_train=None, split_seed=0)
        self._size, self._classes = size, classes

    def read(self) -> tuple[Labelled, Labelled]:
        labels = torch.arange(300) % self._classes
        images = torch.zeros(300, *self._size, dtype=torch.uint8)
        return Labelled(images, labels), Labelled(images, labels)


def runs(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of every run of a sweep over one key."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [override for override in parsed if override.is_sweep_override()]
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    if not swept:
        yield fixed
    for override in swept:
        yield from ([*fixed, f"{override.get_key_element()}={value}"] for value in override.sweep_string_iterator())


def settings_of(task: str, sweep: str) -> list[Settings]:
    """Of every run of a sweep."""
    options = argparse.Namespace(data="data", threads=1, overrides=["compute.precision=bf16-mixed"])
    told = runs(compare.command(compare.TASKS[task], compare.TASKS[task].sweeps[sweep].overrides, options))
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        return [make_settings(compose("config", overrides)) for overrides in told]


@pytest.mark.parametrize(("task", "sweep"), SWEEPS, ids=[f"{task}-{sweep}" for task, sweep in SWEEPS])
def test_every_run_is_one_of_lwdcs_and_has_a_name(task: str, sweep: str) -> None:
    assert len(settings_of(task, sweep)) == len(compare.TASKS[task].sweeps[sweep].names)


@pytest.mark.parametrize(("task", "sweep"), DIFFERENT, ids=[f"{task}-{sweep}" for task, sweep in DIFFERENT])
def test_every_space_fits_its_network_and_reaches_its_budget(task: str, sweep: str) -> None:
    settings = settings_of(task, sweep)[0]  # the others differ by who proposes, or how long
    data = Noise(settings.data.num_classes, settings.data.input_size)
    prepared = prepare(dataclasses.replace(settings, data=data))
    assert prepared.bound is not None and prepared.bound < prepared.table.total / 6


def test_a_row_takes_the_place_of_the_same_search_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    rows = [{"task": "a", "seed": seed, "search": name, "test": 0.5} for seed in (0, 1) for name in ("x", "y")]
    compare.record(file, rows)
    compare.record(file, [{**rows[1], "test": 0.7}])
    assert compare.recorded(file) == [rows[0], rows[2], rows[3], {**rows[1], "test": 0.7}]
