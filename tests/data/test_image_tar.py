"""Image tars: the same batches as the folder that they were made of, and what is refused."""

import itertools
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from lwdc.data import DataModule, ImageFolder, ImageTar, Shard
from lwdc.errors import DataError

WriteTar = Callable[..., Path]

# Python 3.12 warns of forking while torch's threads run; the workers only read files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def prepared(kind: type[DataModule], root: Path, **options: Any) -> Any:
    data = kind(root, **{"image_size": 16, "workers": 0} | options)
    data.prepare(torch.device("cpu"))
    return data


def whole(tree: Path, root: Path, split: str) -> None:
    """One tar of class folders, packed in another order than theirs."""
    with tarfile.open(root / f"{split}.tar", "w") as made:
        for file in sorted((tree / split).rglob("*.png"), key=lambda file: (file.name, file.parent)):
            made.add(file, f"./{file.relative_to(tree / split)}")


def by_class(tree: Path, root: Path, split: str) -> None:
    """A folder with a tar a class."""
    (root / split).mkdir()
    for folder in (tree / split).iterdir():
        with tarfile.open(root / split / f"{folder.name}.tar", "w") as made:
            for file in sorted(folder.iterdir(), reverse=True):
                made.add(file, file.name)


def nested(tree: Path, root: Path, split: str) -> None:
    """A tar with a tar a class, as ImageNet comes."""
    by_class(tree, root, split)
    with tarfile.open(root / f"{split}.tar", "w") as made:
        for tar in (root / split).iterdir():
            made.add(tar, tar.name)
            tar.unlink()
    (root / split).rmdir()


LAYOUTS = (whole, by_class, nested)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tar_gives_the_batches_of_its_folder_bit_for_bit(image_tree: Path, tmp_path: Path, layout: Any) -> None:
    for split in ("train", "val"):
        layout(image_tree, tmp_path, split)
    folder = prepared(ImageFolder, image_tree)
    tars = prepared(ImageTar, tmp_path, workers=2 if layout is nested else 0)
    assert tars.class_names == folder.class_names == ("cat", "dog", "emu")
    there = {"seed": 1, "epoch": 2, "batch_size": 8, "start": 1, "shard": Shard(1, 2)}
    pairs = itertools.chain(
        zip(folder.train(**there), tars.train(**there), strict=True),
        *(zip(folder.batches(s, 5), tars.batches(s, 5), strict=True) for s in ("valid", "test")),
    )
    for (pixels, labels), (others, their_labels) in pairs:
        assert torch.equal(pixels, others) and torch.equal(labels, their_labels)


def classes_and_labels(contents: Mapping[str, bytes], path: Path, write_tar: WriteTar) -> tuple[list[str], list[int]]:
    write_tar(path, contents)
    source = ImageTar(path.parent).source("train")
    return list(source.class_names), source.labels.tolist()


def test_the_class_is_the_first_folder_in_the_tar(tmp_path: Path, write_tar: WriteTar) -> None:
    images = {"./animals/misc/1.png": b"", "./plants/misc/1.webp": b"", "plants/2.png": b""}
    assert classes_and_labels(images, tmp_path / "train.tar", write_tar) == (["animals", "plants"], [0, 1, 1])
    packed = {"train/readme.txt": b"", **{f"train/{name}": b"" for name in images}}
    assert classes_and_labels(packed, tmp_path / "train.tar", write_tar) == (["animals", "plants"], [0, 1, 1])


@pytest.mark.parametrize("name", ["train.tar", "train/part0.tar"])
@pytest.mark.parametrize("folders", ["val", "imagenet/train"])
def test_folders_that_hold_all_images_are_seen_through(
    name: str, folders: str, tmp_path: Path, write_tar: WriteTar
) -> None:
    write_tar(tmp_path / name, {f"{folders}/{inside}": b"" for inside in ("cat/1.png", "dog/1.png", "README")})
    source = ImageTar(tmp_path).source("train")
    assert (source.class_names, source.labels.tolist(), source.note) == (["cat", "dog"], [0, 1], None)


def test_shards_of_class_folders_are_merged(tmp_path: Path, write_tar: WriteTar) -> None:
    for index in range(2):
        write_tar(tmp_path / "train" / f"{index}.tar", {f"{name}/{index}.png": b"" for name in ("cat", "dog")})
    source = ImageTar(tmp_path).source("train")
    assert source.class_names == ["cat", "dog"] and source.labels.tolist() == [0, 1, 0, 1]


def test_hidden_files_are_passed_over(tmp_path: Path, write_tar: WriteTar) -> None:
    images = {f"{name}/1.png": b"" for name in ("cat", "dog", ".ipynb_checkpoints", "__MACOSX/cat")}
    images |= {"cat/._1.png": b"", "._2.tar": b"no tar"}
    assert classes_and_labels(images, tmp_path / "train.tar", write_tar) == (["cat", "dog"], [0, 1])
    (tmp_path / "train.tar").unlink()
    for name in ("cat", "dog"):
        write_tar(tmp_path / "train" / f"{name}.tar", {"1.png": b""})
    (tmp_path / "train" / "._cat.tar").write_bytes(b"no tar")
    assert ImageTar(tmp_path).source("train").class_names == ["cat", "dog"]


def test_files_that_are_not_called_as_images_are_told_of_or_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    images = {"cat/1.png": b"", "dog/1.gif": b"", "dog/2.heic": b""}
    write_tar(tmp_path / "train.tar", images)
    assert (ImageTar(tmp_path).source("train").note or "").endswith(
        "1 file(s) that are not called as images are left out: dog/2.heic"
    )
    write_tar(tmp_path / "train.tar", {**images, "fox/1.heic": b""})
    assert "has the class 'fox' without an image, but with such files as fox/1.heic" in refusal(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_classes_are_those_that_timm_finds(image_tree: Path, tmp_path: Path, layout: Any) -> None:
    layout(image_tree, tmp_path, "train")
    source = ImageTar(tmp_path).source("train")
    place = tmp_path / "train"
    reader = ReaderImageInTar(str(place if place.is_dir() else place.with_suffix(".tar")), cache_tarinfo=False)
    assert {name: index for index, name in enumerate(source.class_names)} == reader.class_name_to_idx
    ours = [(source.name(i).split(": ")[1], int(label)) for i, label in enumerate(source.labels)]
    theirs = [(info.name, int(label)) for (info, *_), label in zip(reader.samples, reader.targets, strict=True)]
    assert len(ours) == 33 and sorted(ours) == sorted(theirs)


def test_randaugment_is_a_setting(image_tree: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        whole(image_tree, tmp_path, split)
    first, second = (
        list(prepared(ImageTar, tmp_path, augment={"auto_augment": name}).train(seed=0, epoch=0, batch_size=8))
        for name in (None, "rand-m9-mstd0.5")
    )
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))  # the same images
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepared(ImageTar, root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_missing_is_named(tmp_path: Path, write_tar: WriteTar) -> None:
    assert f"neither {tmp_path / 'train.tar'} nor a folder {tmp_path / 'train'} of tar files" in refusal(tmp_path)
    write_tar(tmp_path / "train.tar", {"cat/readme.txt": b""})
    assert "train.tar has no images (.jpg, .jpeg, .jpe, .jfif, .png, " in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty has no images" in refusal(tmp_path, train="empty")


def test_images_outside_of_classes_and_strange_classes_are_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "train.tar", {"1.png": b""})
    assert "images outside class folders; move them" in refusal(tmp_path)
    write_tar(tmp_path / "train.tar", {f"{name}/{i}.png": b"" for name in ("cat", "dog") for i in range(9)})
    write_tar(tmp_path / "val.tar", {"fox/1.png": b""})
    assert "val.tar has classes that are not among the 2 training ones: fox" in refusal(tmp_path)


def test_a_tar_within_a_tar_within_a_tar_is_no_class(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "c.tar", {"1.png": b""})
    for name in ("b", "train"):
        path = write_tar(tmp_path / f"{name}.tar", {path.name: path.read_bytes()})
    assert "train.tar has no images" in refusal(tmp_path)


def test_an_image_that_cannot_be_read_is_named_or_left_out(
    image_tree: Path, tmp_path: Path, write_tar: WriteTar
) -> None:  # fmt: skip
    whole(image_tree, tmp_path, "train")
    content = (image_tree / "val" / "cat" / "0.png").read_bytes()
    write_tar(tmp_path / "val.tar", {"cat/a.png": content, "cat/b.png": content[:99], "dog/c.png": content})
    stop, skip = (prepared(ImageTar, tmp_path, unreadable=choice) for choice in ("stop", "skip"))
    with pytest.raises(DataError, match=r"val\.tar: cat/b\.png cannot be read as an image"):
        list(stop.batches("test", 3))
    assert [labels.tolist() for _, labels in skip.batches("test", 3)] == [[0, 1]]
    assert skip.unreadable_files() == (f"{tmp_path / 'val.tar'}: cat/b.png",)


def test_a_member_of_gigabytes_is_not_read(image_tree: Path, tmp_path: Path) -> None:
    whole(image_tree, tmp_path, "train")
    member = tarfile.TarInfo("cat/a.png")
    member.size = 5 << 30
    with (tmp_path / "val.tar").open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate((5 << 30) + 2048)
    assert "cat/a.png cannot be read as an image (it has 5,368,709,120 bytes, and 67,108,864 at most" in refusal(
        tmp_path
    )


def test_a_batch_larger_than_the_training_set_is_refused(image_tree: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        whole(image_tree, tmp_path, split)
    data = prepared(ImageTar, tmp_path)
    with pytest.raises(DataError, match=r"the batch size is 31, .* has 30 training examples; make the batches smaller"):
        data.train(seed=0, epoch=0, batch_size=31)
