"""Hostile and damaged files: every loader refuses them by an error of lwdc's, soon, in little memory, running none."""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import tarfile
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lwdc
from lwdc.backbones import Backbone, load_weights
from lwdc.data import Cifar10, Mnist
from lwdc.data.image_folder import ImageFolder
from lwdc.data.wav import read_wav
from lwdc.errors import DataError, ExportError, LwdcError
from lwdc.export import gather
from lwdc.export.package import DESCRIPTION
from lwdc.files import parse_json
from lwdc.report import read_runs, write_report
from lwdc.training import load_checkpoint


def _experiment(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "experiments" / "fuzz" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FUZZ = _experiment("loaders")
LOADERS = FUZZ.loaders()
TEXT = (
    "architecture description costs table_json measurements evaluations records config shards_info".split()
)  # of json
AS_FAR_AS_NEEDED = ("image", "image_jpeg", "image_tiff", "image_ppm", "image_tar", "shard", "weights_old")
LINES = ("records", "class_names")
SKIPS = {"measurements", "evaluations"}  # leave out the lines that they do not know, which are made again


@contextlib.contextmanager
def bounded(seconds: int = 10, gib: float = 1.5) -> Iterator[None]:
    """What takes longer, or more memory than that on top, fails."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def put(name: str, folder: Path, content: bytes) -> Path:
    path = folder / LOADERS[name].name
    path.parent.mkdir(parents=True, exist_ok=True)
    FUZZ.beside(name, folder)
    path.write_bytes(content)
    return path


def read(name: str, folder: Path) -> bool:
    """Whether the file was read; anything but a value and an error of lwdc's fails."""
    try:
        LOADERS[name].read(folder)
    except LwdcError as error:
        assert str(error) and len(str(error)) < 4000
        return False
    return True


def test_every_loader_is_in_the_long_run() -> None:
    assert LOADERS.keys() <= _experiment("fuzz").RUNS.keys()


@pytest.mark.parametrize("name", LOADERS)
def test_the_sound_file_is_read(name: str, tmp_path: Path) -> None:
    put(name, tmp_path, LOADERS[name].seed)
    assert read(name, tmp_path)


@pytest.mark.parametrize("name", LOADERS)
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    seed = LOADERS[name].seed
    for part in (0, 1, len(seed) // 4, len(seed) // 2):
        put(name, tmp_path, seed[:part])
        with bounded():
            refused = not read(name, tmp_path)
        # Of lines, those that are whole count.
        assert refused or name in (*SKIPS, "records", "table_csv", "sweep", "clips"), part


@pytest.mark.parametrize("name", LOADERS)
def test_flipped_bits_are_refused_or_do_no_harm(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    for _ in range(60):
        content = bytearray(LOADERS[name].seed)
        for _ in range(rng.choice([1, 1, 2, 8])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        put(name, tmp_path, bytes(content))
        with bounded():
            read(name, tmp_path)


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_of_a_terabyte_is_not_read(name: str, tmp_path: Path) -> None:
    path = put(name, tmp_path, LOADERS[name].seed)
    os.truncate(path, 1 << 40)  # sparse
    with bounded():
        assert not read(name, tmp_path) or name in AS_FAR_AS_NEEDED


@pytest.mark.parametrize("kind", ["pipe", "folder", "nowhere", "device", "itself"])
@pytest.mark.parametrize("name", LOADERS)
def test_what_is_no_file_is_not_waited_for(name: str, kind: str, tmp_path: Path) -> None:
    path = put(name, tmp_path, b"")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"nowhere": "/nowhere/at/all", "device": "/dev/zero", "itself": path.name}[kind])
    with bounded():
        assert not read(name, tmp_path) or name in (*SKIPS, "costs")  # as if there were none yet


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", LOADERS)
def test_code_in_a_file_is_never_run(name: str, tmp_path: Path) -> None:
    trap = {"format": "lwdc-checkpoint-1", "config": Trap(tmp_path / "sprung")}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(trap, zipped)
    torch.save(trap, old, _use_new_zipfile_serialization=False)
    for content in (zipped.getvalue(), old.getvalue(), pickle.dumps(trap), pickle.dumps(trap, protocol=0)):
        put(name, tmp_path, content)
        with bounded():
            assert not read(name, tmp_path) or name in (*SKIPS, *LINES)  # in which they are none, or strange
    assert not (tmp_path / "sprung").exists()


TANGLED = {
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested keys": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a million sites": b'{"format": 1, "choices": {'
    + b",".join(b'"s%d":{"op":"original"}' % i for i in range(1_000_000))
    + b"}}",
    "a number of many digits": b'{"format": ' + b"9" * 100_000 + b"}",
    "infinite": b'{"format": 1e999, "rest": Infinity, "sites": {"a": {"b": NaN}}}',
    "twice": b'{"format": 1, "format": 1, "sites": {}, "choices": {}, "record": "Note", "record": "Note"}',
    "surrogates": b'"\\ud800"',
    "nothing": b"null",
    "another version": b'{"format": 99, "record": "Later", "choices": {}}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("kind", TANGLED)
@pytest.mark.parametrize("name", TEXT)
def test_tangled_json_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    put(name, tmp_path, TANGLED[kind] + b"\n")
    with bounded():
        assert not read(name, tmp_path) or name in (*SKIPS, "config")  # in which these are no targets


@settings(max_examples=150)
@given(st.text(alphabet='{}[]",:0123456789.eE-+truefalsnNaI \\u', max_size=60))
def test_json_is_what_pythons_reader_takes_it_for_or_refused(text: str) -> None:
    try:
        found = parse_json(text)
    except ValueError:
        return
    assert found == json.loads(text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(LOADERS)), st.binary(max_size=300), st.integers(0, 10_000))
def test_whatever_stands_in_a_file_the_errors_are_lwdcs_own(
    tmp_path: Path, name: str, piece: bytes, place: int
) -> None:
    seed = LOADERS[name].seed
    at = place % len(seed)
    put(name, tmp_path, seed[:at] + piece + seed[at + len(piece) :])
    read(name, tmp_path)


# Files of torch: what no bit flip finds.


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, more: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("a/data.pkl", pickled)
        made.writestr("a/version", b"3\n")
        if more:
            made.writestr("a/data/0", more)


def both_refuse(path: Path, said: str) -> None:
    for load in (load_checkpoint, lambda path: load_weights(nn.Linear(1, 1), path)):
        with bounded(gib=1.0), pytest.raises(LwdcError, match=said):
            load(path)


def test_a_file_of_bytes_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt", b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    both_refuse(tmp_path / "a.pt", r"builtins\.bytearray, which may be code")


@pytest.mark.parametrize("name", ["a/data.PKL", "a/data.Pkl"])
def test_a_name_in_capitals_hides_nothing(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as made:
        made.writestr(name, b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
        made.writestr("a/version", b"3\n")
    both_refuse(tmp_path / "a.pt", r"builtins\.bytearray, which may be code")


def test_a_sound_archive_behind_a_pickle_hides_nothing(tmp_path: Path) -> None:
    archive(tmp_path / "sound.pt", b"\x80\x02}.")
    pickled = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."
    (tmp_path / "a.pt").write_bytes(pickled + (tmp_path / "sound.pt").read_bytes())
    both_refuse(tmp_path / "a.pt", r"builtins\.bytearray, which may be code")


def test_buffers_that_torch_saves_are_read(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    torch.save({**layer.state_dict(), "bias": nn.Buffer(torch.ones(1))}, tmp_path / "a.pt")
    load_weights(layer, tmp_path / "a.pt")
    assert float(layer.bias.detach()) == 1


def test_what_is_compressed_is_not_unpacked(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt", b"\x80\x02}.", zipfile.ZIP_DEFLATED, more=b"\x00" * (64 << 20))
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    both_refuse(tmp_path / "a.pt", "compressed")


def test_a_storage_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"format": "lwdc-checkpoint-1", "weight": torch.arange(6.0)}, path)
    with zipfile.ZipFile(path) as made:
        inside = {entry.filename: made.read(entry) for entry in made.infolist()}
    with zipfile.ZipFile(path, "w") as made:
        for name, content in inside.items():
            if name.endswith("data.pkl"):  # six elements become 2^24, of the storage and of the tensor
                content = content.replace(b"K\x06t", b"J\x00\x00\x00\x01t").replace(
                    b"K\x06\x85", b"J\x00\x00\x00\x01\x85"
                )
            made.writestr(name, content)
    both_refuse(path, "size")


@pytest.mark.parametrize(
    "header",
    [
        b'{"weight": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"weight": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"weight": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], '
        b'"data_offsets": [0, 4]}}',
        b'{"weight": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}',
        b"[" * 50_000,
        b"{}",
    ],
)
def test_a_header_of_safetensors_that_lies_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    for length in (len(header), len(header) + 1, 2**63, 2**31):
        path.write_bytes(length.to_bytes(8, "little") + header + b"\x00" * 4)
        with bounded(), pytest.raises(LwdcError):
            load_weights(nn.Linear(1, 1), path)


# Packages.


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    backbone = Backbone("cifar_resnet8", 10, 1, {"channels": [4, 8, 8]})
    network, architecture = lwdc.discretise(lwdc.wrap(backbone.create(), input_size=(1, 8, 8)))
    lwdc.save(folder, network, architecture, backbone=backbone, input_size=(1, 8, 8))
    return folder


def changed(package: Path, folder: Path, **changes: Any) -> Path:
    for file in package.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = json.loads((folder / DESCRIPTION).read_text())
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    (folder / DESCRIPTION).write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"num_classes": 10**11}},
        {"backbone": {"num_classes": -1}},
        {"backbone": {"options": {"channels": [10**6, 10**6, 10**6]}}},
        {"backbone": {"options": {"channels": "wide"}}},
        {"backbone": {"options": {"checkpoint_path": "/etc/passwd"}}},
        {"backbone": {"options": {"pretrained_cfg": {"url": "http://nowhere"}}}},
        {"backbone": {"name": "hf-hub:somebody/something"}},
        {"backbone": {"name": "local-dir:/etc"}},
        {"backbone": {"name": ["resnet18"]}},
        {"backbone": {"reparameterise": True}},
        {"backbone": {"reparameterise": [1]}},
        {"input_shape": [1, -8, 8]},
        {"input_shape": []},
        {"weights": {"tied": {"a": "b"}}},
        {"weights": {"tied": {"a": []}}},
        {"weights": {"bytes": 10**15}},
        {"weights": None},
        {"operators": {"original": None, "theirs": "os"}},
        {"operators": []},
    ],
)
def test_a_package_that_lies_is_refused(package: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with bounded(seconds=20, gib=6), pytest.raises(ExportError):
        lwdc.load(changed(package, tmp_path, **changes))


def test_weights_of_a_package_are_tensors(package: Path, tmp_path: Path) -> None:
    folder = changed(package, tmp_path)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(pickle.dumps({name: Trap(tmp_path / "sprung") for name in state}))
    with pytest.raises(ExportError):
        lwdc.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_run_that_was_sent_uploads_no_other_file(package: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "run").mkdir()
    folder = changed(package, tmp_path / "run")
    (folder / "architecture.json").write_text("{}")
    (folder / "model_card.md").write_text("`model.safetensors` `model.onnx`")
    (folder / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(ExportError, match=r"model\.onnx is a link"):
        gather(folder, tmp_path / "out")
    (folder / "model_card.md").unlink()
    (folder / "model_card.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ExportError, match="no model_card"):
        gather(folder, tmp_path / "out2")


# Data.


def test_a_batch_of_cifar_is_never_unpickled_unless_it_is_the_published_one(tmp_path: Path) -> None:
    for file in Cifar10.files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(pickle.dumps({"data": Trap(tmp_path / "sprung")}))
    with pytest.raises(DataError):
        Cifar10(tmp_path).read()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("data", [Cifar10, Mnist])
def test_an_archive_that_is_not_the_published_one_is_not_unpacked(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*given: Any, **named: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    root = tmp_path / "root"
    for name in ("cifar-10-python.tar.gz", "MNIST/raw/train-images-idx3-ubyte.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / name, "w:gz") as made:
            inside = tarfile.TarInfo("../../escaped")
            made.addfile(inside, io.BytesIO())
            link = tarfile.TarInfo("cifar-10-batches-py")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            made.addfile(link)
    with pytest.raises(DataError):
        data(root, download=True).read()
    assert not list(tmp_path.rglob("escaped")) and not (root / "cifar-10-batches-py").exists()


def images(root: Path) -> None:
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for index in range(4):
                (root / split / label / f"{index}.png").write_bytes(LOADERS["image"].seed)


def test_folders_that_are_linked_into_themselves_are_refused(tmp_path: Path) -> None:
    images(tmp_path)
    for name in ("x", "y", "z"):
        (tmp_path / "train" / "ant" / name).symlink_to(tmp_path / "train")
    with bounded(), pytest.raises(DataError, match="is a link to a folder"):
        ImageFolder(tmp_path, image_size=8, workers=0).prepare(torch.device("cpu"))


def test_an_image_is_what_its_name_says_and_no_bomb(tmp_path: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(sprung) (w) file\n"
    png = LOADERS["image"].seed
    for content in (postscript, png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]):
        put("image", tmp_path, content)
        with bounded():
            assert not read("image", tmp_path)


@pytest.mark.parametrize("name", ["../../../secret.wav", "/etc/secret.wav", "a/b.wav", ".."])
def test_a_table_of_clips_names_no_files_elsewhere(tmp_path: Path, name: str) -> None:
    put("clips", tmp_path, b"filename,fold,target,category,src_file\n" + name.encode() + b",1,0,dog,1\n")
    assert not read("clips", tmp_path)


@pytest.mark.parametrize("rate", [0, 1, 532_263, 2**31 - 1, 2**32 - 1])
def test_a_rate_that_no_recording_has_is_refused(tmp_path: Path, rate: int) -> None:
    seed = LOADERS["wav"].seed
    put("wav", tmp_path, seed[:24] + rate.to_bytes(4, "little") + seed[28:])
    with bounded():
        assert not read("wav", tmp_path)


def test_a_sound_of_hours_is_not_resampled(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 1_000, 0, "NONE", "NONE"))
        file.writeframes(bytes(700_000))
    with bounded(gib=0.5), pytest.raises(DataError, match="700 s; 625 at most"):
        read_wav(path, 16_000)


# Reports.


@pytest.mark.parametrize("folder", ["../../elsewhere", "/ELSEWHERE", "x/../../elsewhere", ""])
def test_a_table_of_runs_leads_nowhere_else(tmp_path: Path, folder: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    for place in (tmp_path / "sweep", elsewhere):
        place.mkdir()
    (elsewhere / "records.jsonl").write_bytes(LOADERS["records"].seed)
    named = folder.replace("/ELSEWHERE", str(elsewhere))
    (tmp_path / "sweep" / "results.csv").write_text(f'overrides,seed,status,folder\nseed=0,0,done,"{named}"\n')
    runs = read_runs([tmp_path / "sweep"])
    assert all(run.epochs == () for run in runs)


def test_a_page_runs_nothing_that_records_say(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    lines = [{"record": "Note", "text": evil, "level": evil}, json.loads(LOADERS["records"].seed.splitlines()[1])]
    gates = [{"site": evil, "candidates": [evil, "b"], "probabilities": [0.5, 0.5]}]
    cost = {"name": evil, "expected": 1.0, "bound": None, "factor": 0.1}
    lines.append(lines[1] | {"phase": "search", "search": {"costs": [cost], "decided": 0.5, "gates": gates}})
    run = tmp_path / evil.replace("/", "")
    run.mkdir()
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(read_runs([run]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "alert(1)" in page and "<script>alert" not in page
