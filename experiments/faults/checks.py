"""What must hold after a kill, and after the last resume."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file

from lwdc.tracking import parse_record, read_records
from lwdc.training import load_checkpoint

EQUAL_BYTES = ("architecture.json", "costs.json", "model.json", "model.onnx")


def half_written(folder: Path) -> list[str]:
    """Files that are not whole, of those that a run leaves in ``folder``."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return [path.name for path in files if not _whole(path)]


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            data = json.loads(path.read_text())
            if path.name == "model.json":
                return _digest(path.with_name(data["weights"]["file"])) == data["weights"]["sha256"]
        elif path.suffix == ".pt":
            load_checkpoint(path)
        elif path.suffix == ".pt2":
            return zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
        elif path.name == "records.jsonl":
            lines = read_records(path)  # without a last line that is cut, which the next resume drops
            return len(lines) >= load_checkpoint(path.with_name("checkpoint.pt"))["records"]
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        return path.suffix == ".log" or path.stat().st_size > 0
    except Exception as error:  # noqa: BLE001 - damaged bytes may surface as anything
        print(f"{path}: {error!r}")
        return False


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """How the end of a run that was killed differs from that of the one left alone, but for time and place."""
    found = half_written(folder)
    for path in sorted(undisturbed.glob("*.safetensors")):
        if not _equal(load_file(folder / path.name), load_file(path)):
            found.append(path.name)
    if not _equal(*(load_checkpoint(f / "supernet.pt")["state"] for f in (folder, undisturbed))):
        found.append("supernet.pt")
    found += [
        name
        for name in EQUAL_BYTES
        if (undisturbed / name).exists() and _digest(folder / name) != _digest(undisturbed / name)
    ]
    ours, theirs = _told(folder), _told(undisturbed)
    if ours != theirs:
        found.append(f"records.jsonl ({len(ours)} and {len(theirs)} records)")
    if left := [path.name for path in folder.glob(".*") if path.suffix == ".tmp" or path.name.startswith(".export.")]:
        found.append(f"left over: {left}")
    return found


def _equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def _told(folder: Path) -> list[Any]:
    """The records in their order, without what time and place change."""
    told = []
    for line in read_records(folder / "records.jsonl"):
        parse_record(line)
        kind = line["record"]
        if kind == "Note" and "going on at step" not in line["text"]:
            told.append(line["text"].replace(str(folder), "FOLDER"))
        elif kind == "EpochRecord":
            told.append({**line, "seconds": None})
        elif kind == "Result":
            told.append({key: line[key] for key in ("record", "valid", "test", "costs", "warnings")})
    return told


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
