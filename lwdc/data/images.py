"""Images: a data set of encoded images anywhere, decoded and augmented by worker processes through timm."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lwdc.data.base import SPLITS, Batch, DataModule, check_split
from lwdc.data.decoding import decode
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.seeding import derive_seed, generator, seeded
from lwdc.data.shard import WHOLE, Shard
from lwdc.data.splits import hold_out, keep_at_most
from lwdc.data.workers import begin, loaded
from lwdc.errors import DataError

_Read = tuple[Tensor | None, int, list[str]]  # pixels unless left out, label, images that could not be read


class ImageSource(ABC):
    """Encoded images by number, any of them at any time: what makes every order of them exact and resumable.

    It is copied into worker processes: arrays rather than one object an image keep their memory shared.
    """

    where: str  # for messages
    class_names: Sequence[str]
    labels: Tensor  # int64 (N,), of ``class_names``
    note: str | None = None  # what a run should say of it

    @abstractmethod
    def open(self, place: int) -> BinaryIO:
        """The image's file, to be read and closed. May raise anything."""

    @abstractmethod
    def name(self, place: int) -> str:
        """What messages call it."""


class Images(DataModule):
    """Images below ``root``; class names are known after ``prepare``. A subclass says what a split's name stands for.

    Unless ``valid`` names a split, ``valid_share`` of the training images are held out. Images are resized so
    that the centre crop of ``image_size`` holds ``crop_pct`` of the shorter side; ``augment`` holds further
    arguments of ``timm.data.create_transform`` for training images (``scale``, ``auto_augment`` ...).
    ``workers`` processes read files, 0 for none; their number changes no batch. ``prepare`` decodes one image
    a class, or every one if ``check_all``; an unreadable one met there or later raises a ``DataError`` that names it.
    If ``unreadable`` is ``"skip"`` it is kept in ``unreadable_files``: in training the next readable one in the order
    of the source stands in for it, elsewhere it is left out.
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
        self.names = {"train": train, "valid": valid, "test": test}
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
        self._splits: dict[str, _Listing] = {}
        self._notes: tuple[str, ...] = ()

    @abstractmethod
    def source(self, name: str) -> ImageSource:
        """The images of the split that ``train``, ``valid`` or ``test`` calls so, in an order that stays.

        Raises ``DataError`` if they are missing, damaged, none, or outside of a class.
        """

    def prepare(self, device: torch.device) -> None:
        self.device = device
        if self._splits:
            return
        self._splits = self._list_splits()
        self._check_readable()

    def notes(self) -> tuple[str, ...]:
        return self._notes

    def unreadable_files(self) -> tuple[str, ...]:
        return tuple(self._unreadable_files)

    def num_train(self) -> int:
        return len(self._split("train"))

    def train(
        self, *, seed: int, epoch: int, batch_size: int, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:  # fmt: skip
        listing, steps = self._split("train"), self.steps(batch_size)
        order = torch.randperm(len(listing), generator=generator(seed, epoch))
        decoded = _Decoded(listing, self.augmentation, self.unreadable, (seed, epoch))
        return self._load(decoded, order[start * batch_size : steps * batch_size], batch_size, shard)

    def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        decoded = _Decoded(self._split(split), self.transform, self.unreadable)
        return self._load(decoded, torch.arange(len(decoded)), batch_size, shard)

    def _load(self, decoded: "_Decoded", order: Tensor, batch_size: int, shard: Shard) -> Iterator[Batch]:
        indices = [batch[shard.slice].tolist() for batch in order.split(batch_size)]
        loader = DataLoader(
            decoded,
            batch_sampler=[batch for batch in indices if batch],
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=begin,
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
            raise DataError(f"none of {len(order)} images can be read, such as {decoded.listing.name(0)}.")

    def _split(self, name: str) -> "_Listing":
        check_split(name)
        if not self._splits:
            raise DataError(f"{self.name} has not been read yet; call prepare(device) first.")
        return self._splits[name]

    def _list_splits(self) -> dict[str, "_Listing"]:
        sources = {split: self.source(name) for split, name in self.names.items() if name is not None}
        classes = sources["train"].class_names
        if len(classes) < 2:
            raise DataError(
                f"{sources['train'].where} has the one class {classes[0]!r}; at least 2 are needed."
            )  # fmt: skip
        splits = {split: _numbered(source, classes) for split, source in sources.items()}
        if "valid" not in splits:
            labels = splits["train"].labels
            train, valid = hold_out(labels, round(self.valid_share * len(labels)), seed=self.split_seed)
            splits |= {"train": splits["train"][train], "valid": splits["train"][valid]}
        kept = keep_at_most(splits["train"].labels, self.limit_train, seed=self.split_seed)
        splits["train"] = splits["train"][kept]
        self.class_names = tuple(classes)
        self._notes = tuple(source.note for source in sources.values() if source.note)
        return splits

    def _check_readable(self) -> None:
        for split in SPLITS:
            if self.check_all:
                for _ in self.batches(split, 64):
                    pass
                continue
            labels = self._splits[split].labels.tolist()
            first_of_class = {label: index for index, label in reversed(list(enumerate(labels)))}
            for index in first_of_class.values() if self.unreadable == "stop" else ():
                self._splits[split].decode(index)


@dataclasses.dataclass(frozen=True)
class _Listing:
    """Some images of a source, in order, with their labels."""

    source: ImageSource
    places: Tensor  # int64 (n,), in the source
    labels: Tensor  # int64 (n,)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices: Tensor) -> "_Listing":
        return _Listing(self.source, self.places[indices], self.labels[indices])

    def name(self, index: int) -> str:
        return self.source.name(int(self.places[index]))

    def decode(self, index: int) -> Any:
        return decode(self.name(index), lambda: self.source.open(int(self.places[index])))


class _Decoded(Dataset[_Read | DataError]):
    """Images by their place in ``listing``; random transforms are a function of ``seed`` and that place."""

    def __init__(self, listing: _Listing, transform: Any, unreadable: str, seed: tuple[int, ...] | None = None) -> None:
        self.listing = listing
        self.transform = transform
        self.unreadable = unreadable
        self.seed = seed

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> _Read | DataError:
        unreadable: list[str] = []
        stand_ins = 0 if self.seed is None or self.unreadable == "stop" else _MOST_STAND_INS
        for place in range(index, index + 1 + stand_ins):
            here = place % len(self)
            label = int(self.listing.labels[here])
            try:
                image = self.listing.decode(here)
            except DataError as error:
                if self.unreadable == "stop" or len(unreadable) == _MOST_STAND_INS:
                    return error  # raised by the reader of the batch: a worker would wrap it into its traceback
                unreadable.append(self.listing.name(here))
                continue
            if self.seed is None:
                return self.transform(image), label, unreadable
            with seeded(derive_seed(*self.seed, index)):
                return self.transform(image), label, unreadable
        return None, label, unreadable


_MOST_STAND_INS = 100  # images in a row that cannot be read, before it is the whole source that cannot


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


def _numbered(source: ImageSource, classes: Sequence[str]) -> _Listing:
    """All images, with their class's number among the training classes instead of in their own source."""
    if strangers := sorted(set(source.class_names) - set(classes)):
        raise DataError(
            f"{source.where} has classes that are not among the {len(classes)} training ones: "
            f"{', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}; "
            "remove them, or add them to the training images."
        )
    number = {name: index for index, name in enumerate(classes)}
    numbers = torch.tensor([number[name] for name in source.class_names])
    return _Listing(source, torch.arange(len(source.labels)), numbers[source.labels])
