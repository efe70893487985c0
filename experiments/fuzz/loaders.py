"""Loaders: everything of lwdc that reads a file of somebody else, each with a small sound file to begin from."""

import csv
import importlib.util
import io
import json
import shutil
import tarfile
import tempfile
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import lwdc
from lwdc.backbones import load_weights
from lwdc.costs import CostTable, FromFile
from lwdc.costs.measurements import Measurements
from lwdc.data import Esc10, HfDataset, ImageSource, ImageTar, Mnist, WebDataset
from lwdc.data.decoding import decode
from lwdc.data.image_folder import ImageFiles
from lwdc.data.wav import read_wav
from lwdc.errors import CheckpointError
from lwdc.export.package import read_description
from lwdc.files import read_json
from lwdc.pipeline.compress import _tables
from lwdc.pipeline.known import Known
from lwdc.pipeline.run import state_of
from lwdc.records import EpochRecord, Note, as_dict
from lwdc.report import read_runs
from lwdc.targets import check_targets
from lwdc.tracking import parse_record, read_records
from lwdc.training import save_checkpoint


class Loader(NamedTuple):
    """``read`` takes the folder in which the file ``name`` holds what is tried."""

    name: str
    seed: bytes
    read: Callable[[Path], Any]


def loaders() -> dict[str, Loader]:
    """By name."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    supernet = lwdc.wrap(network, input_size=(3, 8, 8))
    table = lwdc.tabulate(supernet, lwdc.Macs())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        architecture = lwdc.discretise(supernet)[1]
        lwdc.save(folder, *lwdc.discretise(supernet), input_size=(3, 8, 8))
        architecture.save(folder / "architecture.json")
        save_checkpoint(folder / "checkpoint.pt", _STATE)
        torch.save(network.state_dict(), folder / "weights.pt")
        torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
        made = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = {
        "architecture": Loader(
            "architecture.json", made["architecture.json"], lambda f: lwdc.Architecture.load(f / "architecture.json")
        ),
        "description": Loader("model.json", made["model.json"], read_description),
        "costs": Loader("costs.json", json.dumps([table.to_dict()]).encode(), _tables),
        "table_json": Loader("t.json", _costs_json(table), lambda f: FromFile(str(f / "t.json")).tabulate(supernet)),
        "table_csv": Loader("t.csv", _costs_csv(table), lambda f: FromFile(str(f / "t.csv")).tabulate(supernet)),
        "measurements": Loader("m.jsonl", _MEASURED, lambda f: _measured(f / "m.jsonl")),
        "evaluations": Loader("evaluations.jsonl", _EVALUATED, lambda f: Known(f / "evaluations.jsonl")),
        "records": Loader("records.jsonl", _RECORDS, lambda f: _records(f / "records.jsonl")),
        "sweep": Loader("results.csv", _SWEEP, lambda f: read_runs([f])),
        "config": Loader("config.json", _CONFIG, lambda f: check_targets(_parsed(f / "config.json"))),
        "checkpoint": Loader("checkpoint.pt", made["checkpoint.pt"], state_of),
        "weights": Loader("w.pt", made["weights.pt"], lambda f: load_weights(network, f / "w.pt")),
        "weights_old": Loader("o.pt", made["old.pt"], lambda f: load_weights(network, f / "o.pt")),
        "safetensors": Loader(
            "w.safetensors",
            safetensors.torch.save(network.state_dict()),
            lambda f: load_weights(network, f / "w.safetensors"),
        ),
        "wav": Loader("a.wav", _wav(), lambda f: read_wav(f / "a.wav", 8000)),
        "clips": Loader("ESC-10/meta.csv", _CLIPS, lambda f: Esc10(f).clips()),
        "idx": Loader("MNIST/raw/train-images-idx3-ubyte", _idx(np.zeros((4, 28, 28))), lambda f: Mnist(f).read()),
        "image": Loader("a.png", _image("PNG"), lambda f: _decoded(f / "a.png")),
        "image_jpeg": Loader("a.jpg", _image("JPEG"), lambda f: _decoded(f / "a.jpg")),
        "image_tiff": Loader("a.tif", _image("TIFF"), lambda f: _decoded(f / "a.tif")),
        "image_ppm": Loader("a.ppm", _image("PPM"), lambda f: _decoded(f / "a.ppm")),
        "image_tar": Loader("train.tar", _tar(_CLASSES), lambda f: _all(ImageTar(f).source("train"))),
        "shard": Loader("train-0.tar", _tar(_SAMPLES), lambda f: _all(WebDataset(f).source("train"))),
        "shards_info": Loader("_info.json", _INFO, lambda f: WebDataset(f).source("train")),
        "class_names": Loader("classnames.txt", b"ant\nbee\n", lambda f: WebDataset(f).source("train")),
    }
    if importlib.util.find_spec("datasets"):
        found["hf_dataset"] = Loader("set/data/train-00000-of-00001.parquet", _parquet(), _rows)
    return found


def beside(name: str, folder: Path) -> None:
    """Write what a loader needs besides the file that is tried."""
    if name == "idx":
        for file, values in (
            ("train-labels-idx1-ubyte", np.arange(4)),
            ("t10k-images-idx3-ubyte", np.zeros((4, 28, 28))),
            ("t10k-labels-idx1-ubyte", np.arange(4)),
        ):
            (folder / "MNIST/raw" / file).write_bytes(_idx(values))
    if name in ("shards_info", "class_names"):
        (folder / "train-0.tar").write_bytes(_tar(_SAMPLES))


_EPOCH = EpochRecord("baseline", 1, 2, 16, 0.5, 0.9, 0.8, 0.1, 1.5)
_RECORDS = b"".join(json.dumps(as_dict(record)).encode() + b"\n" for record in (Note("begun"), _EPOCH))
_MEASURED = b'{"environment": {"device": "cpu", "threads": 1}, "level": 0.001, "seconds": {"conv 3x3": 0.002}}\n'
_EVALUATED = b"".join(
    b'{"fingerprint": "99", "accuracy": %s, "seconds": 1.5, "error": %s, "cached": false, "choices": %s}\n'
    % (*line, b'{"0": {"op": "skip"}}')
    for line in ((b"0.5", b"null"), (b"null", b'"no"'))
)
_SWEEP = b"overrides,seed,status,folder\nseed=0,0,done,outputs/0\nseed=1,1,failed: no,outputs/1\n"
_CONFIG = b'{"gate": {"_target_": "lwdc.gates.Softmax", "_partial_": true}, "x": [{"_target_": "torch.optim.Adam"}]}'
_CLIPS = b"filename,fold,target,category\n1-100032-A-0.wav,1,0,dog\n2-100038-A-14.wav,2,1,rain\n"
_STATE = {
    "config": json.dumps({"seed": 0, "overrides": ["seed=0"]}),
    "done": {"baseline": {"valid": 0.5}},
    "fit": None,
    "records": 3,
    "weights": {"a": torch.arange(6.0)},
}


def _decoded(path: Path) -> Image.Image:
    return decode(path.name, lambda: ImageFiles("", (), torch.empty(0), (str(path),)).open(0))


def _all(source: ImageSource) -> list[Image.Image]:
    return [decode(source.name(place), partial(source.open, place)) for place in range(len(source.labels))]


def _rows(folder: Path) -> list[Image.Image]:
    """With what the library makes of the file in a folder of its own, lest it find that again."""
    import datasets

    shutil.rmtree(folder / "cache", ignore_errors=True)
    datasets.disable_progress_bars()
    with mock.patch.object(datasets.config, "HF_DATASETS_CACHE", folder / "cache"):
        return _all(HfDataset(folder / "set").source("train"))


def _parsed(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:  # of Hydra's own reader, in its place
        raise CheckpointError(str(error)) from error


def _measured(path: Path) -> None:
    found = Measurements(path, {"device": "cpu", "threads": 1})
    if found.found:
        found.levelled(list(found.found))
    found.others()


def _records(path: Path) -> None:
    for line in read_records(path):
        parse_record(line)


def _costs_json(table: CostTable) -> bytes:
    sites = {site: {**costs, "original": table.original[site]} for site, costs in table.sites.items()}
    return json.dumps({"rest": 1.5, "sites": sites}).encode()


def _costs_csv(table: CostTable) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["site", "operator", "cost"])
    for site, costs in table.sites.items():
        writer.writerows([site, operator, cost] for operator, cost in costs.items())
    return text.getvalue().encode()


def _wav() -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\x01\x02" * 40)
    return content.getvalue()


def _idx(values: np.ndarray) -> bytes:
    return np.array([0x0800 + values.ndim, *values.shape], ">i4").tobytes() + values.astype(np.uint8).tobytes()


def _image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(content, kind)
    return content.getvalue()


_CLASSES = {"ant/0.png": _image("PNG"), "bee/0.jpg": _image("JPEG"), "bee/1.png": _image("PNG")}
_SAMPLES = {"a/0.png": _image("PNG"), "a/0.cls": b"0", "a/1.jpg": _image("JPEG"), "a/1.cls": b"1"}
_INFO = (
    b'{"splits": {"train": {"name": "train", "num_samples": 2, "filenames": ["train-0.tar"], "shard_lengths": [2]}}}'
)


def _tar(contents: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()[: archive.offset]  # without the zeros after its end


def _parquet() -> bytes:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    images = [{"bytes": content, "path": None} for content in _CLASSES.values()]
    made = io.BytesIO()
    datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features=features).to_parquet(made)
    return made.getvalue()
