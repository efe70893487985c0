"""WebDataset: shards give what their folder gives, however many there are, and what is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lwdc.data import DataModule, ImageFolder, Shard, WebDataset
from lwdc.data.web_dataset import expand_braces
from lwdc.errors import DataError

WriteTar = Callable[..., Path]

# Python 3.12 warns of forking while torch's threads run; the workers only read files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def prepared(kind: type[DataModule], root: Path, **options: Any) -> Any:
    data = kind(root, **{"image_size": 16, "workers": 0} | options)
    data.prepare(torch.device("cpu"))
    return data


@pytest.fixture(scope="module")
def pack() -> Any:
    """The experiment's script that makes shards of folders."""
    path = Path(__file__).parents[2] / "experiments" / "imagenette" / "shards.py"
    spec = importlib.util.spec_from_file_location("shards", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pack


@pytest.fixture(scope="module")
def shards(image_tree: Path, tmp_path_factory: pytest.TempPathFactory, pack: Any) -> Path:
    """Five shards of training and one of test images."""
    root = tmp_path_factory.mktemp("shards")
    info = {
        "splits": {split: pack(image_tree, split, root, 7 if split == "train" else 9) for split in ("train", "val")}
    }
    (root / "_info.json").write_text(json.dumps(info))
    assert len(list(root.glob("train-*.tar"))) == 5
    return root


def test_shards_give_the_batches_of_their_folder_bit_for_bit(image_tree: Path, shards: Path) -> None:
    folder, sharded = prepared(ImageFolder, image_tree), prepared(WebDataset, shards)
    assert sharded.class_names == folder.class_names == ("cat", "dog", "emu")
    there = {"seed": 1, "epoch": 2, "batch_size": 8}
    first, second = (list(data.train(**there)) + list(data.batches("valid", 4)) for data in (folder, sharded))
    for (pixels, labels), (others, their_labels) in zip(first, second, strict=True):
        assert torch.equal(pixels, others) and torch.equal(labels, their_labels)


def test_fewer_shards_than_ranks_and_workers_starve_none(shards: Path) -> None:
    one = {"train": "train-0000.tar", "valid": "val-0000.tar", "test": "val-*.tar"}
    alone, helped = (prepared(WebDataset, shards, **one, workers=workers) for workers in (0, 2))
    there = {"seed": 0, "epoch": 1, "batch_size": 6}
    ((pixels, labels),) = alone.train(**there)
    assert len(labels) == 6
    for rank in range(3):  # with two workers each, at one shard
        ((share, its_labels),) = helped.train(**there, shard=Shard(rank, 3))
        assert torch.equal(share, pixels[rank::3]) and torch.equal(its_labels, labels[rank::3])


def test_an_epoch_goes_on_at_any_step(shards: Path) -> None:
    data = prepared(WebDataset, shards)
    steps = list(data.train(seed=3, epoch=0, batch_size=8))
    for start in range(len(steps) + 1):
        rest = list(data.train(seed=3, epoch=0, batch_size=8, start=start))
        assert [y.tolist() for _, y in rest] == [y.tolist() for _, y in steps[start:]]
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(rest, steps[start:], strict=True))


@pytest.mark.parametrize(
    "name", ["train", "train-{0000..0004}.tar", "train-000{0,1,2,3,4}.tar", "train-*.tar", "train-000?.tar"]
)
def test_shards_are_named_by_a_split_or_by_a_pattern(shards: Path, name: str) -> None:
    source = WebDataset(shards).source(name)
    assert len(source.labels) == 33
    assert [source.name(i).rsplit("/", 2)[1:] for i in (0, 32)] == [
        ["train-0000.tar: cat", "0.jpg"],
        ["train-0004.tar: emu", "10.jpg"],
    ]


def test_patterns_are_written_out_as_a_shell_does() -> None:
    assert expand_braces("a.tar") == ["a.tar"]
    assert expand_braces("a-{8..11}.tar") == [f"a-{i}.tar" for i in (8, 9, 10, 11)]
    assert expand_braces("{a,b}-{08..10}") == ["a-08", "a-09", "a-10", "b-08", "b-09", "b-10"]
    for much in ("{0..100000}", "{5..4}", "{0..999}{0..999}", "{0..999999999}"):
        with pytest.raises(DataError, match="shards"):
            expand_braces(much)


def samples(png: bytes, labels: str) -> dict[str, bytes]:
    """Images with one of these labels each, image first or second."""
    made: dict[str, bytes] = {}
    for index, label in enumerate(labels):
        pair = {f"{index}.png": png, f"{index}.cls": label.encode() + b"\n"}
        made |= pair if index % 2 else dict(reversed(pair.items()))
    return made


@pytest.fixture
def png(image_tree: Path) -> bytes:
    return (image_tree / "val" / "cat" / "0.png").read_bytes()


def test_classes_without_names_are_called_by_their_labels(tmp_path: Path, write_tar: WriteTar, png: bytes) -> None:
    write_tar(tmp_path / "train-0.tar", samples(png, "3737377"))
    write_tar(tmp_path / "val-0.tar", samples(png, "7"))
    data = prepared(WebDataset, tmp_path, valid="val")
    assert data.class_names == ("3", "7")
    assert [labels.tolist() for _, labels in data.batches("train", 9)] == [[0, 1, 0, 1, 0, 1, 1]]
    assert [labels.tolist() for _, labels in data.batches("test", 9)] == [[1]]


def test_what_belongs_to_no_sample_is_passed_over(tmp_path: Path, write_tar: WriteTar, png: bytes) -> None:
    more = {"readme": b"", "a/.hidden": b"", "a/0.json": b"{}", "a/0.seg.png": b""}
    write_tar(tmp_path / "train-0.tar", {"a/0.cls": b"0", **more, "a/0.JPG": png})
    source = WebDataset(tmp_path).source("train")
    assert source.open(0).read() == png and source.labels.tolist() == [0]


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepared(WebDataset, root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_shards_are_named(shards: Path, tmp_path: Path) -> None:
    assert f"no shard {tmp_path / 'train-*.tar'}; set data.root" in refusal(tmp_path)
    assert f"no shard {shards / 'train-0005.tar'}" in refusal(shards, train="train-{0004..0005}.tar")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a.png": None}, r"train-0\.tar: the sample 'a' has no image \(jpg, jpeg, .*, pnm\), only cls; pack both"),
        ({"a.cls": None}, r"train-0\.tar: the sample 'a' has no label \(cls\), only png; pack both"),
        ({"a.cls": b""}, r"train-0\.tar: a\.cls is no label \('' is no class's number\)"),
        ({"a.cls": b"-1"}, "'-1' is no class's number"),
        ({"a.cls": b"1e3"}, "'1e3' is no class's number"),
        ({"a.cls": b"9" * 99}, "it has 99 bytes, and 64 at most are read"),
        ({"a.cls": b"9" * 20}, "is no class's number"),
        ({"a.cls": b"\xff"}, r"a\.cls is no label"),
        ({"../a.png": b""}, r"the member '\.\./a\.png' leads out of it"),
    ],
)
def test_samples_that_are_not_whole_are_refused(
    tmp_path: Path, write_tar: WriteTar, changes: dict[str, bytes | None], said: str
) -> None:
    contents = {"a.png": b"", "a.cls": b"0"} | changes
    write_tar(tmp_path / "train-0.tar", {name: content for name, content in contents.items() if content is not None})
    with pytest.raises(DataError, match=said):
        WebDataset(tmp_path).source("train")


def test_a_shard_without_samples_is_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "train-0.tar", {"readme": b""})
    assert "train-0.tar: no samples in there" in refusal(tmp_path)


def test_a_shard_that_is_cut_off_is_refused(shards: Path, tmp_path: Path) -> None:
    content = (shards / "train-0000.tar").read_bytes()
    for cut in (len(content) // 2, len(content) // 2 // 512 * 512, 512):
        (tmp_path / "train-0.tar").write_bytes(content[:cut])
        assert "train-0.tar cannot be read as a tar file" in refusal(tmp_path)


def test_a_shard_with_fewer_samples_than_it_is_said_to_have_is_refused(shards: Path, tmp_path: Path) -> None:
    info = json.loads((shards / "_info.json").read_text())
    for file in shards.glob("*.tar"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info["splits"]["train"]["shard_lengths"][1] = 8
    (tmp_path / "info.json").write_text(json.dumps(info))
    assert f"{tmp_path / 'train-0001.tar'} has 7 samples, info.json says 8; fetch it again" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({}, "KeyError"),
        ({"filenames": [], "shard_lengths": []}, "no lists of one length"),
        ({"filenames": ["a.tar"], "shard_lengths": 3}, "no lists of one length"),
        ({"filenames": ["../a.tar"], "shard_lengths": [1]}, r"'\.\./a\.tar' lies outside of its folder"),
        ({"filenames": ["/a.tar"], "shard_lengths": [1]}, "lies outside"),
        ({"filenames": [3], "shard_lengths": [1]}, "TypeError"),
        ([], "TypeError"),
    ],
)
def test_an_info_file_that_is_none_is_refused(tmp_path: Path, split: Any, said: str) -> None:
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    with pytest.raises(DataError, match=said):
        WebDataset(tmp_path).source("train")
    with pytest.raises(DataError, match="it has no split 'val', but train"):
        WebDataset(tmp_path).source("val")


def test_class_names_begin_without_a_byte_order_mark(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "train-0.tar", samples(b"", "01"))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert WebDataset(tmp_path).source("train").class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (b"cat\n\ndog\n", "has the label 2, .*classnames.txt names classes 0 to 1"),
        (b"cat\ncat\ndog\n", r"classnames\.txt cannot be read \(a name is given twice\)"),
        (b"\xff", r"classnames\.txt cannot be read"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(
    tmp_path: Path, write_tar: WriteTar, names: bytes, said: str
) -> None:  # fmt: skip
    write_tar(tmp_path / "train-0.tar", samples(b"", "012"))
    (tmp_path / "classnames.txt").write_bytes(names)
    with pytest.raises(DataError, match=said):
        WebDataset(tmp_path).source("train")


def test_a_batch_larger_than_the_training_set_is_refused(shards: Path) -> None:
    with pytest.raises(DataError, match=r"the batch size is 31, .* has 30 training examples"):
        prepared(WebDataset, shards).train(seed=0, epoch=0, batch_size=31)
