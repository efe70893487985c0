"""ImageFolder: image files in one folder a class, as ImageNet's, read by worker processes through timm."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data.readers.reader_factory import create_reader
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lwdc.data.base import SPLITS, Batch, DataModule, check_split
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.seeding import derive_seed, generator, seeded
from lwdc.data.shard import WHOLE, Shard
from lwdc.data.splits import hold_out, keep_at_most
from lwdc.data.workers import ignore_signals, loaded
from lwdc.errors import DataError
from lwdc.files import check_regular

Sample = tuple[str, int]  # file, label
_Read = tuple[Tensor | None, int, list[str]]  # pixels unless left out, label, files that could not be read


class ImageFolder(DataModule):
    """``root`` with a folder a split and in it a folder a class; class names are known after ``prepare``.

    Without a ``valid`` folder, ``valid_share`` of the training images are held out. Images are resized so
    that the centre crop of ``image_size`` holds ``crop_pct`` of the shorter side; ``augment`` holds further
    arguments of ``timm.data.create_transform`` for training images (``scale``, ``auto_augment`` ...).
    ``workers`` processes read files, 0 for none; their number changes no batch. ``prepare`` decodes one image
    a class, or every one if ``check_all``; an unreadable one met there or later raises a ``DataError`` that names it.
    If ``unreadable`` is ``"skip"`` it is kept in ``unreadable_files``: in training the next readable one in the order
    of the files stands in for it, elsewhere it is left out.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        train: str = "train",
        valid: str | None = None,
        test: str = "val",
        valid_share: float = 0.1,
        limit_train: int | None = None,
        split_seed: int = 0,
        image_size: int = 224,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        augment: Mapping[str, Any] | None = None,
        workers: int = 2,
        check_all: bool = False,
        unreadable: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.root = Path(root)
        self.name = self.root.resolve().name
        self.class_names = ()
        self.folders = {"train": train, "valid": valid, "test": test}
        self.valid_share = valid_share
        self.limit_train = limit_train
        self.split_seed = split_seed
        self.preprocessing = Preprocessing(
            (3, image_size, image_size),
            channel_order="RGB",
            scale=1 / 255,
            mean=tuple(mean),
            std=tuple(std),
            resize=int(image_size / crop_pct),
            crop=(image_size, image_size),
            interpolation=interpolation,
        )
        common: dict[str, Any] = {"input_size": self.input_size, "interpolation": interpolation}
        common |= {"mean": tuple(mean), "std": tuple(std)}
        try:
            self.augmentation = create_transform(**{**common, "is_training": True, **(augment or {})})
        except (TypeError, ValueError, AssertionError) as error:
            raise DataError(
                f"data.augment={dict(augment or {})} is refused by timm.data.create_transform: {error}."
            ) from error
        self.transform = create_transform(**common, crop_pct=crop_pct)
        self.workers = workers
        self.check_all = check_all
        if unreadable not in ("stop", "skip"):
            raise DataError(f"data.unreadable is {unreadable!r}; at such an image a run can stop or skip it.")
        self.unreadable = unreadable
        self._unreadable_files: dict[str, None] = {}  # an ordered set
        self.device = torch.device("cpu")
        self._splits: dict[str, list[Sample]] = {}

    def prepare(self, device: torch.device) -> None:
        self.device = device
        if self._splits:
            return
        self._splits = self._list_splits()
        self._check_readable()

    def unreadable_files(self) -> tuple[str, ...]:
        return tuple(self._unreadable_files)

    def num_train(self) -> int:
        return len(self._split("train"))

    def train(
        self, *, seed: int, epoch: int, batch_size: int, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:  # fmt: skip
        samples, steps = self._split("train"), self.steps(batch_size)
        order = torch.randperm(len(samples), generator=generator(seed, epoch))
        images = _Images(samples, self.augmentation, self.unreadable, (seed, epoch))
        return self._load(images, order[start * batch_size : steps * batch_size], batch_size, shard)

    def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        images = _Images(self._split(split), self.transform, self.unreadable)
        return self._load(images, torch.arange(len(images)), batch_size, shard)

    def _load(self, images: "_Images", order: Tensor, batch_size: int, shard: Shard) -> Iterator[Batch]:
        indices = [batch[shard.slice].tolist() for batch in order.split(batch_size)]
        loader = DataLoader(
            images,
            batch_sampler=[batch for batch in indices if batch],
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=ignore_signals,
            pin_memory=self.device.type == "cuda",
            # A loader draws a number from its generator; without one of its own, from the training's.
            generator=torch.Generator(),
        )
        empty = len(order) > 0 and shard == WHOLE  # a share may have none, or only such
        for batch in loaded(loader):
            if isinstance(batch, DataError):
                raise batch
            pixels, labels, unreadable = batch
            self._unreadable_files |= dict.fromkeys(unreadable)
            if len(labels):
                empty = False
                yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if empty:
            raise DataError(f"none of {len(order)} images can be read, such as {images.samples[0][0]}.")

    def _split(self, name: str) -> list[Sample]:
        check_split(name)
        if not self._splits:
            raise DataError(f"{self.name} has not been read yet; call prepare(device) first.")
        return self._splits[name]

    def _list_splits(self) -> dict[str, list[Sample]]:
        folders = {split: self.root / name for split, name in self.folders.items() if name is not None}
        scans = {split: _scan(folder) for split, folder in folders.items()}
        classes = scans["train"][0]
        if len(classes) < 2:
            raise DataError(f"{folders['train']} has the one class {classes[0]!r}; at least 2 are needed.")
        splits = {
            split: _renumber(samples, found, classes, folders[split]) for split, (found, samples) in scans.items()
        }
        if "valid" not in splits:
            labels = _labels(splits["train"])
            train, valid = hold_out(labels, round(self.valid_share * len(labels)), seed=self.split_seed)
            splits |= {"train": _choose(splits["train"], train), "valid": _choose(splits["train"], valid)}
        kept = keep_at_most(_labels(splits["train"]), self.limit_train, seed=self.split_seed)
        splits["train"] = _choose(splits["train"], kept)
        self.class_names = tuple(classes)
        return splits

    def _check_readable(self) -> None:
        for split in SPLITS:
            if self.check_all:
                for _ in self.batches(split, 64):
                    pass
                continue
            first_of_class = {label: file for file, label in reversed(self._splits[split])}
            for file in first_of_class.values() if self.unreadable == "stop" else ():
                _open(file)


class _Images(Dataset[_Read | DataError]):
    """Images by their place in ``samples``; random transforms are a function of ``seed`` and that place."""

    def __init__(
        self, samples: list[Sample], transform: Any, unreadable: str, seed: tuple[int, ...] | None = None
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.unreadable = unreadable
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> _Read | DataError:
        unreadable: list[str] = []
        stand_ins = 0 if self.seed is None or self.unreadable == "stop" else _MOST_STAND_INS
        for place in range(index, index + 1 + stand_ins):
            file, label = self.samples[place % len(self.samples)]
            try:
                image = _open(file)
            except DataError as error:
                if self.unreadable == "stop" or len(unreadable) == _MOST_STAND_INS:
                    return error  # raised by the reader of the batch: a worker would wrap it into its traceback
                unreadable.append(file)
                continue
            if self.seed is None:
                return self.transform(image), label, unreadable
            with seeded(derive_seed(*self.seed, index)):
                return self.transform(image), label, unreadable
        return None, label, unreadable


_MOST_STAND_INS = 100  # files in a row that cannot be read, before it is the whole folder that cannot


def _collate(samples: list[_Read | DataError]) -> tuple[Tensor, Tensor, list[str]] | DataError:
    images, labels, unreadable = [], [], []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        pixels, label, files = sample
        unreadable += files
        if pixels is not None:
            images.append(pixels)
            labels.append(label)
    return torch.stack(images) if images else torch.empty(0), torch.tensor(labels), unreadable


# By content, whatever a file is called: of Pillow's others some run programs, and some are seldom looked at.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def _open(file: str) -> Image.Image:
    try:
        check_regular(Path(file))
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(file, formats=_FORMATS) as image,
        ):
            return image.convert("RGB")
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise DataError(
            f"{file} cannot be read as an image ({error}; {', '.join(_FORMATS)} of up to 89 million "
            "pixels can); replace it, or let such images be "
            "left out by data.unreadable=skip."
        ) from error


def _scan(folder: Path) -> tuple[list[str], list[Sample]]:
    """Class folders in natural order, as timm numbers them, and the files with their class's number."""
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}; set data.root to the folder that holds the splits, "
            "or data.train, data.valid and data.test to the names used there."
        )
    _check_links(folder)
    try:
        reader = create_reader("", root=str(folder))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{folder} cannot be used: {error}; one folder a class, with images in it, is needed."
        ) from error
    if "" in reader.class_to_idx:
        raise DataError(f"{folder} has images outside class folders; move them into a folder of their class.")
    return list(reader.class_to_idx), reader.samples


def _check_links(folder: Path) -> None:
    """Raises ``DataError`` for folders linked into themselves, which would be walked for ever."""
    seen: set[tuple[int, int]] = set()
    for inside, _, _ in os.walk(folder, followlinks=True):
        found = os.stat(inside)
        if (found.st_dev, found.st_ino) in seen:
            raise DataError(f"{inside} is a link to a folder that {folder} holds anyway; remove the link.")
        seen.add((found.st_dev, found.st_ino))


def _renumber(samples: list[Sample], found: list[str], classes: list[str], folder: Path) -> list[Sample]:
    """The samples with their class's number among the training classes, instead of in their own folder."""
    if strangers := sorted(set(found) - set(classes)):
        raise DataError(
            f"{folder} has classes that are not among the {len(classes)} training ones: "
            f"{', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}; "
            "remove them, or add them to the training images."
        )
    numbers = [classes.index(name) for name in found]
    return [(file, numbers[label]) for file, label in samples]


def _labels(samples: list[Sample]) -> Tensor:
    return torch.tensor([label for _, label in samples])


def _choose(samples: list[Sample], indices: Tensor) -> list[Sample]:
    return [samples[i] for i in indices.tolist()]
