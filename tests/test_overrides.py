"""Overrides: paths arrive at Hydra as they were typed, and deletions stand where flags may follow."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lwdc.overrides import given_in, quoted, with_paths

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr
AWKWARD = [
    "läufe/größe",
    "a=b",
    "run (1)",
    "it's",
    "a b",
    "2024",
    "tail\\",
    "a\\'b",
    "x,y",
    "[z]",
    "50%",
    "a:b",
    ".5",
    "True",
    "inf",
    "1e3",
    "~nosuch/x",
]


@pytest.mark.parametrize("path", AWKWARD)
def test_hydra_reads_a_path_as_it_was_typed(path: str) -> None:
    (written,) = with_paths([f"run={path}"])
    assert OverridesParser.create().parse_override(written).value() == path
    assert given_in("run", [written]) == path
    assert given_in("run", [f"run={quoted(path)}"]) == path


def test_home_is_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert with_paths(["data.root=~/data", "resume='~/x'"]) == ["data.root=/home/me/data", "resume='~/x'"]


def test_what_is_no_path_or_more_than_one_stays() -> None:
    for override in ("cost.factor=0.1,1", "run=null", "data.root=${oc.env:LWDC_DATA}", "hydra.run.dir='a b'"):
        assert with_paths([override]) == [override]
    swept = ["-m", "baseline=a b,c"]
    assert with_paths(swept) == swept


@pytest.mark.parametrize("name", ["läufe", "a=b (it's)"])
def test_a_run_in_a_folder_of_any_name_is_named_by_what_lwdc_prints(lwdc_in: Run, tmp_path: Path, name: str) -> None:
    tiny = ["backbone=cifar_resnet8", "data.limit_train=64", "compute=cpu", "train.epochs=0"]
    assert lwdc_in("train", *tiny, f"hydra.run.dir={name}")[0] == 0
    assert (tmp_path / name / "baseline.safetensors").is_file()
    assert lwdc_in("train", f"resume={name}")[0] == 0


def test_a_run_with_choices_of_another_folder_asks_for_it(lwdc_in: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "gate").mkdir(parents=True)
    (tmp_path / "mine" / "gate" / "powered.yaml").write_text("defaults: [softmax]\n")
    tiny = ["backbone=cifar_resnet8", "data.limit_train=64", "compute=cpu", "train.epochs=0"]
    assert lwdc_in("train", *tiny, "gate=powered", "--config-dir", "mine", "hydra.run.dir=r")[0] == 0
    code, _, error = lwdc_in("train", "resume=r")
    assert (code, error.count("\n")) == (2, 1)
    assert "started with gate=powered, from a folder of configs" in error and "--config-dir=FOLDER" in error
    assert lwdc_in("train", "resume=r", "--config-dir=mine")[0] == 0


def test_a_deletion_may_stand_in_a_sweep(lwdc_in: Run) -> None:
    tiny = ["backbone=cifar_resnet8", "data.limit_train=64", "compute=cpu", "train.epochs=0"]
    code, _, error = lwdc_in("train", "-m", *tiny, "~data.split_seed", "seed=0,1", "hydra.sweep.dir=s")
    assert (code, error) == (0, "")
