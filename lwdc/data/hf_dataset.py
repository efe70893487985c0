"""HfDataset: a Hugging Face data set on this machine, read by timm's reader through the datasets library."""

import dataclasses
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lwdc.data.base import check_labels
from lwdc.data.images import Images, ImageSource
from lwdc.errors import DataError
from lwdc.files import check_regular


class HfDataset(Images):
    """``root`` is a folder that ``datasets.load_dataset`` takes: of parquet or arrow files, or of a clone from the hub.

    Splits are called as there, parts too (``train[:90%]``). ``image_key`` and ``label_key`` are the columns of images
    and of class labels. The library turns the files into arrow tables in its own cache once; rows of these are read at
    any place and time, in an order that is exact and resumable. A name on the hub is refused, and no loading script is
    run. Needs the extra ``huggingface``.
    """

    def __init__(
        self, root: Path | str, *, image_key: str = "image", label_key: str = "label", **options: Any
    ) -> None:  # fmt: skip
        """``options`` are those of ``Images``."""
        super().__init__(root, **options)
        self.image_key = image_key
        self.label_key = label_key

    def source(self, name: str) -> "Rows":
        if importlib.util.find_spec("datasets") is None:
            raise DataError("data=hf_dataset needs datasets: pip install 'lwdc[huggingface]'.")
        from timm.data.readers.reader_hfds import ReaderHfds  # here: it needs datasets

        where = f"{self.root} ({name})"
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}; set data.root to that of a data set, which is not downloaded.")
        try:
            reader = ReaderHfds(str(self.root), split=name, input_key=self.image_key, target_key=self.label_key)
            labels = np.asarray(reader.dataset.with_format("numpy")[self.label_key][:])
        except Exception as error:  # datasets' readers raise whatever a damaged folder makes them stumble over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise DataError(
                f"{where} cannot be read ({reason}); set data.root, data.train, data.valid, data.test, data.image_key "
                "and data.label_key to a folder, splits and columns that datasets.load_dataset knows."
            ) from error
        if not reader.class_to_idx:
            raise DataError(
                f"the column {self.label_key!r} of {where} holds no class labels; "
                f"make it one by dataset.class_encode_column({self.label_key!r})."
            )
        if labels.dtype.kind not in "iu" or labels.ndim != 1:  # floats, where some are missing
            raise DataError(
                f"rows of {where} have no class, or several, in {self.label_key!r}, and one an image is learned; "
                "leave the others out by dataset.filter."
            )
        if reader.dataset[0][self.image_key] is None:  # what the library makes of a column that is not there
            raise DataError(
                f"{where} has no column {self.image_key!r} of images; set data.image_key to that of images."
            )
        found = torch.from_numpy(labels.astype(np.int64))
        check_labels(found, len(reader.class_to_idx), where)
        rows = reader.dataset.select_columns([self.image_key])
        return Rows(where, list(reader.class_to_idx), found, rows, self.image_key)


@dataclasses.dataclass(frozen=True)
class Rows(ImageSource):
    """Rows of an arrow table, mapped from disk; an image is bytes in it, or a file that it names."""

    where: str
    class_names: Sequence[str]
    labels: Tensor
    rows: Any  # datasets.Dataset
    image_key: str

    def open(self, place: int) -> BinaryIO:
        image = self.rows[place][self.image_key]
        if image["bytes"]:
            return io.BytesIO(image["bytes"])
        check_regular(Path(image["path"]))
        return Path(image["path"]).open("rb")

    def name(self, place: int) -> str:
        return f"{self.where}: row {place}"
