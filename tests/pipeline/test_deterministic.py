"""Runs on image files, read by workers: equal to the last bit, whatever dies in between; unreadable images named."""

import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lwdc.data import ImageFolder
from lwdc.errors import DataError, TrainingError
from lwdc.pipeline import Interrupted, Settings, compress
from lwdc.pipeline.determinism import deterministic
from lwdc.records import EpochRecord, Note, Result
from lwdc.tracking import parse_record, read_records

MakeSettings = Callable[..., Settings]

# Python 3.12 warns of forking while torch's threads run; the workers only read files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 66), ("valid", 8), ("val", 8)):
        for shade, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * shade, 100 * shade + 100, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def folder_of(root: Path, **options: Any) -> ImageFolder:
    augment = {"auto_augment": "rand-m5", "re_prob": 0.5}
    return ImageFolder(root, valid="valid", image_size=8, augment=augment, **{"workers": 2} | options)


@pytest.fixture(scope="module")
def given(settings: MakeSettings) -> MakeSettings:
    """Settings for these images. An epoch of the search has twice as many batches as workers may have read ahead."""
    search = dataclasses.replace(settings().search, batch_size=16)

    def make(data: ImageFolder, *, deterministic: bool = True) -> Settings:
        return settings(data=data, search=search, deterministic=deterministic)

    return make


@pytest.fixture(scope="module")
def undisturbed(given: MakeSettings, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without workers and without the option, which on a CPU is the same to the last bit."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    compress(given(folder_of(photos, workers=0), deterministic=False), folder, {})
    return folder


def assert_same_end(folder: Path, other: Path) -> None:
    for kind in ("baseline", "discretised", "finetuned"):
        ours, theirs = (load_file(f / f"{kind}.safetensors") for f in (folder, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), kind
    assert epochs(folder) == epochs(other)


def epochs(folder: Path) -> list[dict[str, Any]]:
    found = [parse_record(line) for line in read_records(folder / "records.jsonl")]
    return [{**vars(r), "seconds": 0} for r in found if isinstance(r, EpochRecord)]


class Killer:
    """A sink that kills the processes that read images, once, in the search."""

    def __init__(self) -> None:
        self.killed = 0

    def write(self, record: object) -> None:
        return

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        if phase == "search" and not self.killed:
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                self.killed += 1

    def close(self) -> None:
        return


def test_a_run_whose_worker_dies_says_so_and_goes_on_to_the_same_end(
    given: MakeSettings, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder, killer = tmp_path / "run", Killer()
    random.random(), np.random.rand(), torch.rand(3)  # what was drawn before must not matter
    with pytest.raises(
        DataError, match=r"a process that reads images has died \(DataLoader worker .*Then go on with: resume=.*run"
    ):
        compress(given(folder_of(photos)), folder, {}, [killer])
    assert killer.killed
    compress(given(folder_of(photos, workers=1)), folder, {}, resume=True)
    assert_same_end(folder, undisturbed)


class Stopper(Killer):
    """A sink that asks all processes to end, as a scheduler does, once in the search."""

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        if phase == "search" and not self.killed:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                assert process.pid is not None
                os.kill(process.pid, signal.SIGTERM)
                self.killed += 1


def test_a_scheduler_that_asks_workers_to_end_as_well_finds_everything_saved(
    given: MakeSettings, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder, stopper = tmp_path / "run", Stopper()
    with pytest.raises(Interrupted, match=r"stopped in search after step 1 of 8; everything is saved"):
        compress(given(folder_of(photos)), folder, {}, [stopper])
    assert stopper.killed > 1
    compress(given(folder_of(photos)), folder, {}, resume=True)
    assert_same_end(folder, undisturbed)


def test_unreadable_images_are_named_once_and_the_result_says_that_they_are_missing(
    settings: MakeSettings, photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    broken = [str(root / split / "light" / "3.png") for split in ("valid", "val")]
    for file in broken:
        Path(file).write_bytes(b"")
    with pytest.raises(DataError, match=r"valid/light/3.png cannot .*data\.unreadable=skip\. Then go on with: resume="):
        compress(settings(data=folder_of(root, workers=1)), tmp_path / "run", {})
    result = compress(settings(data=folder_of(root, unreadable="skip", workers=1)), tmp_path / "run", {}, resume=True)
    assert isinstance(result, Result)
    (warning,) = [text for text in result.warnings if "could not be read" in text]
    assert warning.startswith("2 file(s) could not be read: left out of every accuracy, in training the next one stood")
    assert all(file in warning for file in broken)
    lines = [parse_record(line) for line in read_records(tmp_path / "run" / "records.jsonl")]
    notes = [r.text for r in lines if isinstance(r, Note) and "could not be read" in r.text]
    assert [note[:9] for note in notes] == ["1 file(s)", "2 file(s)"]
    assert result.valid.baseline is not None
    assert result.valid.baseline * 15 == pytest.approx(round(result.valid.baseline * 15))


def test_a_run_goes_on_past_an_unreadable_image_whose_name_is_no_utf_8(
    settings: MakeSettings, photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    broken = os.fsencode(root / "val" / "light") + b"/\xff.png"
    Path(os.fsdecode(broken)).write_bytes(b"")
    result = compress(settings(data=folder_of(root, unreadable="skip", workers=0)), tmp_path / "run", {})
    assert isinstance(result, Result) and any(r"light/\xff.png" in text for text in result.warnings)
    assert r"light/\xff.png" in (tmp_path / "run" / "model_card.md").read_text()


def flags() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.get_rng_state().tolist(),
    )


def test_deterministic_holds_within_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    with pytest.raises(KeyError), deterministic(3):
        assert flags()[:5] == (True, False, True, False, ":4096:8")
        first = random.random(), np.random.rand(), float(torch.rand(()))
        raise KeyError
    assert flags() == before
    with deterministic(3):
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == first


def test_an_operation_that_has_no_deterministic_way_is_one_clear_line() -> None:
    refusal = r"deterministic=true cannot be kept: .*Say deterministic=false, or run on"
    with pytest.raises(TrainingError, match=refusal), deterministic(0):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    with pytest.raises(RuntimeError, match="something else"), deterministic(0):
        raise RuntimeError("something else")
