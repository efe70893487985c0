"""Esc50 and Esc10: environmental sounds in five official folds."""

import csv
import io
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lwdc.data.clips import Clips
from lwdc.data.in_memory import Labelled
from lwdc.errors import DataError
from lwdc.files import read_text

FOLDS = (1, 2, 3, 4, 5)

# fmt: off
_ESC50_NAMES = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow", "rain", "sea_waves",
    "crackling_fire", "crickets", "chirping_birds", "water_drops", "wind", "pouring_water", "toilet_flush",
    "thunderstorm", "crying_baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing",
    "brushing_teeth", "snoring", "drinking_sipping", "door_wood_knock", "mouse_click", "keyboard_typing",
    "door_wood_creaks", "can_opening", "washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick",
    "glass_breaking", "helicopter", "chainsaw", "siren", "car_horn", "engine", "train", "church_bells",
    "airplane", "fireworks", "hand_saw",
)
# fmt: on


class Clip(NamedTuple):
    """One row of a table of clips."""

    file: Path
    fold: int
    label: int
    source: int  # the recording that it was cut from


class Esc(Clips):
    """Clips of five seconds, read at 16 kHz; ``fold`` is the one that is tested on, the others train.

    Clips cut from one recording are in one fold, and never parted between training and validation.
    """

    sample_rate = 16000
    usual_std = 0.1188  # of ESC-10

    def __init__(
        self,
        root: Path | str,
        *,
        fold: int = 1,
        length: int = 80000,
        shift: int = 8000,
        gain_db: float = 0.0,
        valid: int = 40,
        limit_train: int | None = None,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if fold not in FOLDS:
            raise DataError(f"fold is {fold}; the folds are 1 to 5, and the one named is tested on.")
        super().__init__(
            root,
            length=length,
            shift=shift,
            gain_db=gain_db,
            valid=valid,
            limit_train=limit_train,
            split_seed=split_seed,
            mean=mean,
            std=std,
        )
        self.fold = fold

    @abstractmethod
    def clips(self) -> list[Clip]:
        """All clips of the set. ``DataError`` if their table is missing or damaged."""

    def read(self) -> tuple[Labelled, Labelled]:
        clips = self.clips()
        if missing := set(FOLDS) - {clip.fold for clip in clips}:
            raise DataError(f"{self.name} has no clips in fold(s) {sorted(missing)}; its table is incomplete.")
        train = [clip for clip in clips if clip.fold != self.fold]
        test = [clip for clip in clips if clip.fold == self.fold]
        return self._load(train), self._load(test)

    def _load(self, clips: Sequence[Clip]) -> Labelled:
        files, _, labels, sources = zip(*clips, strict=True)
        return self.load(files, labels, sources)


class Esc50(Esc):
    """2,000 clips in 50 classes: ``root/ESC-50-master/meta/esc50.csv`` and ``audio/`` beside ``meta/``."""

    name = "esc50"
    class_names = _ESC50_NAMES

    def clips(self) -> list[Clip]:
        return _read_table(self.root / "ESC-50-master" / "meta" / "esc50.csv", self.class_names)


class Esc10(Esc):
    """400 clips in 10 of ESC-50's classes: ``root/ESC-10/meta.csv`` and ``audio/``, else out of ESC-50."""

    name = "esc10"
    class_names = (
        "dog", "rain", "sea_waves", "crying_baby", "clock_tick", "sneezing", "helicopter", "chainsaw", "rooster",
        "crackling_fire",
    )  # fmt: skip

    def clips(self) -> list[Clip]:
        own = self.root / "ESC-10" / "meta.csv"
        if own.is_file():
            return _read_table(own)
        return _read_table(self.root / "ESC-50-master" / "meta" / "esc50.csv", self.class_names)


def _read_table(path: Path, class_names: Sequence[str] | None = None) -> list[Clip]:
    """The table's clips: of these classes, which number them, or all as the table numbers them."""
    folder = (path.parent if path.name == "meta.csv" else path.parents[1]) / "audio"
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
        for name in (row["filename"] for row in rows):
            if Path(name).name != name or name == "..":
                raise ValueError(f"{name!r} lies outside of audio/")
        return [
            Clip(
                folder / row["filename"],
                int(row["fold"]),
                int(row["target"]) if class_names is None else class_names.index(row["category"]),
                _source(row),
            )
            for row in rows
            if class_names is None or row["category"] in class_names
        ]
    except FileNotFoundError as error:
        raise DataError(
            f"no {path}; fetch ESC-50 and unpack it there, with audio/*.wav, or set data.root to the folder that "
            "holds ESC-50-master/ (for ESC-10 alone: ESC-10/ with meta.csv and audio/*.wav)."
        ) from error
    # A short row holds None.
    except (OSError, csv.Error, KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); columns filename, fold, target and category "
            "are needed: fetch it again."
        ) from error


def _source(row: dict[str, str]) -> int:
    """By its column, or by the file's name: fold, source, take and class, joined by dashes."""
    return int(row["src_file"] if "src_file" in row else row["filename"].split("-")[1])
