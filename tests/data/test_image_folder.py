"""Image folders: listing, reading by workers, and what is refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lwdc.data import ImageFolder, Shard
from lwdc.errors import DataError

CPU = torch.device("cpu")

# Python 3.12 warns of forking while torch's threads run; the workers only read files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_tree(root, {"train": 12, "val": 3})
    return root


def write_tree(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog", "emu")) -> None:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def prepared(root: Path, **options: Any) -> ImageFolder:
    data = ImageFolder(root, **{"image_size": 16, "workers": 0} | options)
    data.prepare(CPU)
    return data


def same(a: Iterator[tuple[Tensor, Tensor]], b: Iterator[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(list(a), list(b), strict=True))


def test_classes_are_the_folders_and_every_split_is_stratified(tree: Path) -> None:
    data = prepared(tree, valid_share=0.25)
    assert data.class_names == ("cat", "dog", "emu") and data.num_classes == 3
    assert data.name == tree.name
    counts = {s: torch.cat([y for _, y in data.batches(s, 7)]).bincount().tolist() for s in data.names}
    assert counts == {"train": [9] * 3, "valid": [3] * 3, "test": [3] * 3}


def test_images_are_resized_and_cropped_as_the_preprocessing_says(tree: Path) -> None:
    data = prepared(tree, crop_pct=0.8)
    assert data.preprocessing.resize == 20 and data.preprocessing.crop == (16, 16)
    images, _ = next(data.batches("test", 1))
    with Image.open(data._split("test").name(0)) as image:
        width, height = image.size
        scale = 20 / min(width, height)
        resized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 16) / 2), round((resized.height - 16) / 2)
    cropped = np.asarray(resized.crop((left, top, left + 16, top + 16)))
    stored = torch.from_numpy(cropped.copy()).permute(2, 0, 1)[None]
    torch.testing.assert_close(images, data.preprocessing.normalise(stored), rtol=0, atol=1e-5)


def test_a_validation_folder_is_used_where_there_is_one(tmp_path: Path) -> None:
    write_tree(tmp_path, {"training": 4, "validation": 2, "held_out": 3})
    data = prepared(tmp_path, train="training", valid="validation", test="held_out")
    assert [len(data._split(split)) for split in ("train", "valid", "test")] == [12, 6, 9]


def test_training_images_can_be_limited_by_class(tree: Path) -> None:
    data = prepared(tree, limit_train=6)
    assert data.num_train() == 6
    assert torch.cat([y for _, y in data.batches("train", 4)]).bincount().tolist() == [2] * 3


def test_labels_follow_the_training_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4})
    write_tree(tmp_path, {"val": 2}, classes=("dog", "emu"))
    data = prepared(tmp_path)
    assert torch.cat([y for _, y in data.batches("test", 9)]).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("augment", [{}, {"auto_augment": "rand-m9-mstd0.5", "re_prob": 0.5}])
def test_batches_do_not_depend_on_workers_or_start(tree: Path, augment: dict[str, Any]) -> None:
    alone, helped = (prepared(tree, workers=workers, augment=augment) for workers in (0, 2))
    whole = list(alone.train(seed=1, epoch=2, batch_size=4))
    assert len(whole) == alone.steps(4)
    for data in (alone, helped):
        assert same(iter(whole), data.train(seed=1, epoch=2, batch_size=4))
        assert same(iter(whole[3:]), data.train(seed=1, epoch=2, batch_size=4, start=3))
    assert same(alone.batches("valid", 2), helped.batches("valid", 2))
    for index in range(3):
        shard = [(images[index::3], labels[index::3]) for images, labels in whole]
        assert same(iter(shard), alone.train(seed=1, epoch=2, batch_size=4, shard=Shard(index, 3)))


def test_epochs_and_seeds_differ(tree: Path) -> None:
    data = prepared(tree)
    first = next(data.train(seed=0, epoch=0, batch_size=8))[0]
    for other in ({"seed": 0, "epoch": 1}, {"seed": 1, "epoch": 0}):
        assert not torch.equal(first, next(data.train(**other, batch_size=8))[0])


def test_reading_leaves_the_trainings_randomness_alone(tree: Path) -> None:
    data = prepared(tree, augment={"re_prob": 0.5})
    state = torch.get_rng_state()
    next(data.train(seed=0, epoch=0, batch_size=4))
    next(data.batches("test", 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.needs("imagenette/train", "imagenette/val")
def test_an_imagenet_like_tree_is_read(data_root: Path) -> None:
    data = prepared(data_root / "imagenette", workers=1, image_size=64)
    assert data.num_classes == 10 and data.num_train() == 1350
    images, labels = next(data.train(seed=0, epoch=0, batch_size=32))
    assert images.shape == (32, 3, 64, 64) and len(labels.unique()) > 4


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepared(root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_missing_folder_is_named(tree: Path, tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'train'}; set data.root" in refusal(tmp_path)
    assert f"no folder {tree / 'valid'}; set data.root" in refusal(tree, valid="valid")


def test_a_folder_without_images_or_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert f"{tmp_path / 'train'} has no images (.jpg, .jpeg" in refusal(tmp_path)


def test_images_outside_class_folders_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "0.png")
    assert "images outside class folders" in refusal(tmp_path)


def test_the_class_is_the_first_folder_however_deep_an_image_lies(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"animals": 4, "plants": 4}, classes=("misc", "wild"))
    write_tree(tmp_path / "val", {"animals": 1}, classes=("misc",))
    data = prepared(tmp_path)
    assert data.class_names == ("animals", "plants")
    assert torch.cat([y for _, y in data.batches("train", 9)]).bincount().tolist() == [7, 7]
    assert torch.cat([y for _, y in data.batches("test", 9)]).tolist() == [0]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    write_tree(tmp_path, {"train": 1}, classes=(".ipynb_checkpoints", "__MACOSX", "cat/.thumbnails"))
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"")
    (tmp_path / "train" / ".hidden.png").write_bytes(b"")
    data = prepared(tmp_path)
    assert data.class_names == ("cat", "dog", "emu") and data.notes() == ()
    assert len(data.source("train").labels) == 12


def test_classes_have_an_order_even_where_numbers_are_alike(tmp_path: Path) -> None:
    names = ("a10", "a9", "1", "01", "Cat", "cat", "1²2")
    write_tree(tmp_path, {"train": 2}, classes=names)
    assert ImageFolder(tmp_path).source("train").class_names == ["01", "1", "1²2", "a9", "a10", "Cat", "cat"]


@pytest.mark.parametrize("kind", ["webp", "bmp", "gif", "tif", "tiff", "ppm", "JPG"])
def test_images_of_every_kind_that_can_be_decoded_are_found(tmp_path: Path, kind: str) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    with Image.open(tmp_path / "val" / "dog" / "0.png") as image:
        image.save(tmp_path / "val" / "dog" / f"1.{kind}")
    data = prepared(tmp_path, check_all=True)
    assert torch.cat([y for _, y in data.batches("test", 9)]).tolist() == [0, 1, 1, 2]


def test_files_that_are_not_called_as_images_are_told_of(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    for index in range(4):
        (tmp_path / "train" / "cat" / f"{index}.heic").write_bytes(b"")
    (tmp_path / "train" / "readme.txt").write_text("outside of classes")
    assert prepared(tmp_path).notes() == (
        f"{tmp_path / 'train'}: 4 file(s) that are not called as images are left out: cat/0.heic, cat/1.heic, "
        "cat/2.heic, ...",
    )


def test_a_class_without_images_but_with_files_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    (tmp_path / "train" / "fox").mkdir()
    assert prepared(tmp_path).num_classes == 3
    (tmp_path / "train" / "fox" / "0.heic").write_bytes(b"")
    assert "has the class 'fox' without an image, but with such files as fox/0.heic; images are called" in refusal(
        tmp_path
    )


def test_a_class_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert "train cannot be read: [Errno 13] Permission denied" in refusal(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1}, classes=("cat",))
    assert "has the one class 'cat'; at least 2 are needed" in refusal(tmp_path)


def test_classes_that_training_lacks_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 1})
    write_tree(tmp_path / "val", {"": 1}, classes=("fox",))
    message = refusal(tmp_path)
    assert "val has classes that are not among the 3 training ones: fox; remove them" in message


def test_too_few_images_for_validation_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 1, "val": 1})
    assert "0 of 3 training examples were asked for validation" in refusal(tmp_path)


def test_an_unreadable_image_is_found_before_training_if_asked(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 2})
    last = tmp_path / "val" / "emu" / "1.png"
    last.write_bytes(last.read_bytes()[:200])
    for workers in (0, 2):
        assert f"{last} cannot be read as an image" in refusal(tmp_path, check_all=True, workers=workers)


def test_an_unreadable_image_met_while_training_is_named_in_one_line(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 2})
    (tmp_path / "val" / "emu" / "1.png").write_bytes(b"")
    for workers in (0, 2):
        data = prepared(tmp_path, workers=workers)
        with pytest.raises(DataError, match=r"emu/1.png cannot be read as an image .*; replace it") as raised:
            list(data.batches("test", 2))
        assert "\n" not in str(raised.value)


def broken_tree(root: Path) -> list[str]:
    """Images of which one in each split, the first of its class, cannot be read; those."""
    write_tree(root, {"train": 6, "valid": 2, "val": 2})
    broken = [root / split / "dog" / "0.png" for split in ("train", "valid", "val")]
    for file in broken:
        file.write_bytes(b"no image")
    return [str(file) for file in broken]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_of_evaluation_if_asked_and_named(tmp_path: Path, workers: int) -> None:
    broken = broken_tree(tmp_path)
    data = prepared(tmp_path, valid="valid", unreadable="skip", workers=workers)
    assert data.unreadable_files() == ()
    labels = torch.cat([y for _, y in data.batches("test", 1)])
    assert labels.bincount().tolist() == [2, 1, 2]
    assert data.unreadable_files() == (broken[2],)
    assert prepared(tmp_path, valid="valid", unreadable="skip", check_all=True).unreadable_files() == tuple(broken)


def test_in_training_the_next_readable_image_stands_in(tmp_path: Path) -> None:
    broken = broken_tree(tmp_path)
    data, other = (prepared(tmp_path, valid="valid", unreadable="skip", workers=w) for w in (0, 2))
    batches = list(data.train(seed=3, epoch=1, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4] * 4
    assert data.unreadable_files() in ((broken[0],), ())
    for start in (0, 2):  # whatever the workers and wherever it begins
        assert same(iter(batches[start:]), other.train(seed=3, epoch=1, batch_size=4, start=start))
    whole = list(prepared(tmp_path, valid="valid", unreadable="skip").train(seed=0, epoch=0, batch_size=18))
    assert whole[0][1].bincount().tolist() == [6, 6, 6]  # dog/1 stands in for dog/0


def test_where_no_image_can_be_read_nothing_stands_in(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 6, "valid": 1, "val": 1})
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    data = prepared(tmp_path, valid="valid", unreadable="skip")
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(data.train(seed=0, epoch=0, batch_size=4))
    with pytest.raises(DataError, match=r"none of 3 images can be read, such as .*png"):
        list(data.batches("valid", 2))


def test_a_share_without_examples_is_no_error(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 6, "valid": 1, "val": 1})
    data = prepared(tmp_path, valid="valid")
    assert [len(list(data.batches("valid", 4, Shard(index, 8)))) for index in (0, 7)] == [1, 0]


def test_what_happens_at_unreadable_images_is_one_of_two_things(tree: Path) -> None:
    assert "data.unreadable is 'ignore'; at such an image a run can stop or skip it" in refusal(
        tree, unreadable="ignore"
    )


class Deadly:
    """A transform that ends the process that it runs in."""

    def __call__(self, image: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_clear_line(tree: Path) -> None:
    data = prepared(tree, workers=1)
    data.transform = Deadly()
    with pytest.raises(DataError, match=r"a process that reads images has died \(DataLoader worker .*data.workers"):
        list(data.batches("test", 2))


class Faulty:
    """A transform with an error of its own."""

    def __call__(self, image: Any) -> Any:
        raise RuntimeError("something else")


def test_other_errors_are_not_taken_for_the_death_of_a_worker(tree: Path) -> None:
    data = prepared(tree, workers=1)
    data.transform = Faulty()
    with pytest.raises(RuntimeError, match="something else"):
        list(data.batches("test", 2))


def test_reading_by_workers_leaves_the_signals_of_the_process_alone(tree: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    list(prepared(tree, workers=1).batches("test", 2))
    assert signal.getsignal(signal.SIGCHLD) is before


def test_the_first_image_of_each_class_is_checked_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 4, "val": 2})
    (tmp_path / "val" / "emu" / "0.png").write_bytes(b"no image")
    assert "emu/0.png cannot be read as an image" in refusal(tmp_path)


def test_an_unknown_augmentation_is_refused(tree: Path) -> None:
    assert "data.augment={'hflop': 1} is refused by timm.data.create_transform" in refusal(tree, augment={"hflop": 1})


def test_a_batch_larger_than_the_training_set_is_refused(tree: Path) -> None:
    with pytest.raises(DataError, match=r"the batch size is 64, .* has 32 training examples"):
        prepared(tree).train(seed=0, epoch=0, batch_size=64)
