"""Fsdd: the Free Spoken Digit Dataset, digits in English by several speakers."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lwdc.data.clips import Clips
from lwdc.data.in_memory import Labelled
from lwdc.errors import DataError

TEST_TAKES = 5  # of every digit and speaker: takes 0 to 4 are the official test set

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")


class Fsdd(Clips):
    """2,700 + 300 recordings of six speakers, 8 kHz, ``root/FSDD/recordings/{digit}_{speaker}_{take}.wav``.

    The same speakers are heard in training and test, which is how the set is meant. They take 0.14 to 2.3
    seconds, half of them less than 0.42.
    """

    name = "fsdd"
    class_names = tuple("0123456789")
    sample_rate = 8000
    usual_std = 0.0403  # with the zeros that fill up a second

    def __init__(
        self,
        root: Path | str,
        *,
        length: int = 8000,
        shift: int = 800,
        gain_db: float = 0.0,
        valid: int = 300,
        limit_train: int | None = None,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
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
        self.folder = self.root / "FSDD" / "recordings"

    def read(self) -> tuple[Labelled, Labelled]:
        files = self._files()
        train = [file for file, take in files.items() if take >= TEST_TAKES]
        test = [file for file, take in files.items() if take < TEST_TAKES]
        return self.load(train, _digits(train)), self.load(test, _digits(test))

    def _files(self) -> dict[Path, int]:
        """The recordings and their takes, in the order of their names. ``DataError`` if one is missing."""
        takes: dict[str, int] = defaultdict(int)  # of every speaker
        found: dict[Path, int] = {}
        for file in sorted(self.folder.glob("*.wav")):
            if match := _NAME.fullmatch(file.name):
                found[file] = int(match[3])
                takes[match[2]] = max(takes[match[2]], found[file] + 1)
        if not found:
            raise DataError(
                f"no recordings like 0_jackson_0.wav in {self.folder}; fetch the Free Spoken Digit Dataset and put "
                "its folder recordings there, or set data.root to the folder that holds FSDD/recordings/."
            )
        for speaker, count in takes.items():
            for name in (f"{digit}_{speaker}_{take}.wav" for digit in range(10) for take in range(count)):
                if self.folder / name not in found:
                    raise DataError(f"{self.folder / name} is missing; fetch the recordings again.")
        return found


def _digits(files: Sequence[Path]) -> list[int]:
    return [int(file.name[0]) for file in files]
