"""TorchvisionSet: an image set that torchvision reads from a folder, or downloads when asked."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lwdc.data.augmentation import CropAndFlip
from lwdc.data.in_memory import InMemory, Labelled
from lwdc.data.preprocessing import Preprocessing
from lwdc.errors import DataError
from lwdc.files import check_regular

_MOST = 1 << 30  # bytes of one file; the largest has 182 million


class TorchvisionSet(InMemory):
    """8-bit images below ``root``; downloaded to there first if ``download``.

    ``mean`` and ``std`` are the set's own unless given, as for a network trained with others.
    """

    size: ClassVar[tuple[int, ...]]  # of one image
    usual_mean: ClassVar[tuple[float, ...]]  # of the training images, scaled to [0, 1]
    usual_std: ClassVar[tuple[float, ...]]
    files: ClassVar[tuple[str, ...]]  # below root, for messages

    def __init__(
        self,
        root: Path | str,
        *,
        download: bool = False,
        crop_padding: int = 0,
        flip: bool = False,
        valid: int = 5000,
        limit_train: int | None = None,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        preprocessing = Preprocessing(
            self.size,
            channel_order="L" if self.size[0] == 1 else "RGB",
            scale=1 / 255,
            mean=tuple(mean or self.usual_mean),
            std=tuple(std or self.usual_std),
        )
        super().__init__(
            preprocessing,
            augmentation=CropAndFlip(crop_padding, flip),
            valid=valid,
            limit_train=limit_train,
            split_seed=split_seed,
        )
        self.root = Path(root)
        self.download = download

    @abstractmethod
    def load(self, train: bool) -> Labelled:
        """The training or the test images, by the torchvision class of the set."""

    def read(self) -> tuple[Labelled, Labelled]:
        try:
            for path in (self.root / name for name in self.files):
                if path.exists() and check_regular(path) > _MOST:
                    raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes")
            return self.load(True), self.load(False)
        # torchvision's readers raise whatever a short or foreign file makes them stumble over.
        except Exception as error:
            raise DataError(self._what_is_wrong(error)) from error

    def _what_is_wrong(self, error: Exception) -> str:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        missing = [name for name in self.files if not (self.root / name).exists()]
        if self.download:
            return f"{self.name} could not be downloaded to {self.root}: {reason}; put its files there by hand."
        if missing:
            return (
                f"{self.name} looked for {', '.join(missing)} below {self.root}, not found; "
                "set data.root to the folder that holds it, or data.download=true."
            )
        return (
            f"{self.name} found its files below {self.root}, but one is truncated or damaged ({reason}); "
            "delete them and set data.download=true, or set data.root to an intact copy."
        )
