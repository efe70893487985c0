"""A disk that is full, for every file of a run in turn: what is there stays, and the run goes on to the same end."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.architecture import Architecture
from lwdc.errors import LwdcError, WriteError
from lwdc.pipeline import Settings, check_folder, compress
from lwdc.records import EpochRecord, Result
from lwdc.tracking import parse_record, read_records
from lwdc.training import load_checkpoint

Finished = tuple[Path, Settings, Result]
FILES = [
    "checkpoint.pt", "records.jsonl", "costs.json", "baseline.safetensors", "supernet.pt", "discretised.safetensors",
    "architecture.json", "finetuned.safetensors", "model.safetensors", "model.json", "model.pt2", "model.onnx",
    "summary.json", "model_card.md",
]  # fmt: skip


_BEGINS = {"checkpoint.pt": 1, "records.jsonl": 1}  # written so often before a run is under way


@pytest.mark.parametrize("files", [FILES[::3], pytest.param(FILES, marks=pytest.mark.long)], ids=["some", "all"])
def test_whatever_file_meets_a_full_disk_the_run_goes_on_to_the_same_end(
    files: list[str], finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, settings, _ = finished
    settings = dataclasses.replace(settings, latency_batches=())  # of which nothing is a file
    folder, sync = tmp_path / "run", os.fsync
    written: list[str] = []

    def full(file: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{file}"):
            written.append(name)
            if len(written) > _BEGINS.get(name, 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    for number, name in enumerate(files):
        with pytest.raises(WriteError) as raised:
            compress(settings, folder, {"seed": 0}, resume=number > 0)
        message = str(raised.value)
        assert f"{name} cannot be written (No space left on device): make room on its disk" in message
        assert message.endswith(f"Then go on with: resume={folder}")
        load_checkpoint(folder / "checkpoint.pt")
        assert not [path for path in folder.iterdir() if path.name.startswith((".export.", f".{name}"))
                    and not path.name.endswith(".lock")]  # fmt: skip
        written.clear()
    monkeypatch.setattr(os, "fsync", sync)
    result = compress(settings, folder, {"seed": 0}, resume=True)
    assert result is not None
    for kind in ("baseline", "discretised", "finetuned", "model"):
        ours, theirs = (load_file(f / f"{kind}.safetensors") for f in (folder, undisturbed))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert Architecture.load(folder / "architecture.json") == Architecture.load(undisturbed / "architecture.json")
    assert epochs(folder) == epochs(undisturbed)


def epochs(folder: Path) -> list[dict[str, Any]]:
    found = [parse_record(line) for line in read_records(folder / "records.jsonl")]
    return [{**vars(r), "seconds": 0} for r in found if isinstance(r, EpochRecord)]


def test_a_disk_that_is_full_already_is_refused_before_any_work(
    tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    with full_disk(100), pytest.raises(LwdcError, match=r"the output folder .* cannot be written: File too large"):
        check_folder(tmp_path / "run", resume=False)
