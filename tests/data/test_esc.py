"""ESC-10 and ESC-50: official folds, recordings that stay together, both layouts, and damage told by name."""

import csv
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lwdc.data import Esc10, Esc50
from lwdc.errors import DataError

WriteWav = Callable[..., Path]
CPU = torch.device("cpu")
OPTIONS = {"length": 160, "shift": 16, "valid": 40}
PER_FOLD = 3  # clips of a class: recordings of one and of two clips


@pytest.fixture(scope="session")
def made(write_wav: WriteWav, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ESC-50 in its layout and ESC-10 in its own, of clips whose samples are all the recording's number.

    The files of ESC-50 have names that tell nothing; those of ESC-10 tell the recording, as its table does not.
    """
    root = tmp_path_factory.mktemp("esc")
    rows: list[list[object]] = []
    own: list[list[object]] = []
    for fold, target, take in itertools.product(range(1, 6), range(50), range(PER_FOLD)):
        category, source = Esc50.class_names[target], 1000 * fold + 10 * target + (0, 1, 1)[take]
        rows.append([f"{len(rows)}.wav", fold, target, category, category in Esc10.class_names, source, "ABC"[take]])
        write_wav(root / "ESC-50-master/audio" / str(rows[-1][0]), np.full(441, source), rate=44100)
        if category in Esc10.class_names:
            own.append([f"{fold}-{source}-{'ABC'[take]}.wav", fold, Esc10.class_names.index(category), category])
            write_wav(root / "ESC-10/audio" / str(own[-1][0]), np.full(160, source), rate=16000)
    columns = ["filename", "fold", "target", "category"]
    write_table(root / "ESC-50-master/meta/esc50.csv", [*columns, "esc10", "src_file", "take"], rows)
    write_table(root / "ESC-10/meta.csv", columns, own)
    return root


def write_table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def prepared(cls: type[Esc10] | type[Esc50], root: Path, **options: int) -> Esc10 | Esc50:
    data = cls(root, **{**OPTIONS, **options})
    data.prepare(CPU)
    return data


def sources(data: Esc10 | Esc50, split: str) -> set[int]:
    """The recordings that the samples of a split's clips tell."""
    return set(data._splits[split].inputs[:, 0, 80].tolist())


@pytest.mark.parametrize("fold", [1, 3, 5])
def test_the_fold_named_is_the_test_and_no_recording_is_in_two_splits(made: Path, fold: int) -> None:
    data = prepared(Esc10, made, fold=fold)
    found = {split: sources(data, split) for split in ("train", "valid", "test")}
    assert {source // 1000 for source in found["test"]} == {fold}
    assert {source // 1000 for source in found["train"] | found["valid"]} == {1, 2, 3, 4, 5} - {fold}
    assert not found["train"] & found["valid"]
    assert sum(len(part.labels) for part in data._splits.values()) == 5 * 10 * PER_FOLD
    assert data._splits["valid"].labels.bincount().tolist() == [4] * 10


def test_the_five_tests_make_up_the_set(made: Path) -> None:
    tests = [sources(prepared(Esc10, made, fold=fold), "test") for fold in range(1, 6)]
    assert sum(len(test) for test in tests) == len(set.union(*tests)) == 5 * 10 * 2


def test_esc50_is_resampled_and_knows_recordings_by_their_column(made: Path) -> None:
    data = prepared(Esc50, made, valid=150)
    assert data.input_size == (1, 160) and data.num_classes == 50
    groups = {split: set(data._splits[split].groups.tolist()) for split in ("train", "valid")}
    assert not groups["train"] & groups["valid"]
    assert len(data._splits["valid"].labels) == 150
    for part in data._splits.values():
        assert torch.equal(part.labels, part.groups % 1000 // 10)
        # A constant stays one; 441 samples at 44.1 kHz are 160 at 16 kHz, so nothing was padded or cut.
        assert (part.inputs[:, 0, 60:100] - part.groups[:, None]).abs().max() <= 0.02 * 6000


def test_esc10_is_found_in_esc50_too(made: Path, tmp_path: Path) -> None:
    (tmp_path / "ESC-50-master").symlink_to(made / "ESC-50-master")
    own, other = prepared(Esc10, made), prepared(Esc10, tmp_path)
    for split in ("train", "valid", "test"):
        ours, theirs = own._splits[split], other._splits[split]
        assert sorted(zip(ours.groups.tolist(), ours.labels.tolist(), strict=True)) == sorted(
            zip(theirs.groups.tolist(), theirs.labels.tolist(), strict=True)
        )


def refusal(root: Path, cls: type[Esc10] | type[Esc50] = Esc10, **options: int) -> str:
    with pytest.raises(DataError) as raised:
        prepared(cls, root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("cls", [Esc10, Esc50])
def test_missing_data_say_what_to_fetch_and_where_it_goes(cls: type[Esc10] | type[Esc50], tmp_path: Path) -> None:
    message = refusal(tmp_path, cls)
    assert str(tmp_path / "ESC-50-master" / "meta" / "esc50.csv") in message
    assert "fetch ESC-50" in message and "data.root" in message


@pytest.fixture
def small(made: Path, tmp_path: Path) -> Path:
    """A copy of ESC-10 to be damaged."""
    shutil.copytree(made / "ESC-10", tmp_path / "ESC-10")
    return tmp_path


def test_missing_and_damaged_clips_are_named(small: Path) -> None:
    file = small / "ESC-10/audio/2-2000-A.wav"
    file.write_bytes(file.read_bytes()[:-2])
    assert refusal(small).startswith(f"{file} is truncated")
    file.write_bytes(b"nothing of the kind")
    assert refusal(small).startswith(f"{file} cannot be read as a wav file")
    file.unlink()
    assert refusal(small).startswith(f"{file} is missing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("filename,fold", "filename,part"),
        ("1-1000-A.wav,1,", "1-1000-A.wav,one,"),
        ("1-1000-A.wav,1,0,dog", "1-1000-A.wav"),
    ],
)
def test_a_damaged_table_is_named(old: str, new: str, small: Path) -> None:
    table = small / "ESC-10/meta.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    assert refusal(small).startswith(f"{table} cannot be read (")


def test_a_table_without_a_fold_is_refused(small: Path) -> None:
    table = small / "ESC-10/meta.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("4-")))
    assert "no clips in fold(s) [4]" in refusal(small)


@pytest.mark.parametrize("fold", [0, 6])
def test_a_fold_that_there_is_not_is_refused(fold: int) -> None:
    with pytest.raises(DataError, match=f"fold is {fold}; the folds are 1 to 5"):
        Esc10("nowhere", fold=fold)


@pytest.mark.needs("ESC-10")
def test_the_real_esc10_is_whole_and_parts_no_recording(data_root: Path) -> None:
    data = Esc10(data_root, fold=2, valid=60)
    data.prepare(CPU)
    parts = data._splits
    assert len(parts["test"].labels) == 80 and len(parts["train"].labels) + len(parts["valid"].labels) == 320
    assert parts["test"].labels.bincount().tolist() == [8] * 10
    recordings = {split: set(part.groups.tolist()) for split, part in parts.items()}
    assert len(set.union(*recordings.values())) == sum(map(len, recordings.values())) == 304
    assert 50 <= len(parts["valid"].labels) <= 60
    assert min(parts["valid"].labels.bincount(minlength=10)) >= 4
    with (data_root / "ESC-10/meta.csv").open(newline="") as file:
        named = {int(row["target"]): row["category"].split(" - ")[1].lower() for row in csv.DictReader(file)}
    said = ["dog", "rain", "sea", "baby", "clock", "sneez", "helicopter", "chainsaw", "rooster", "fire"]
    for label, word in enumerate(said):
        assert word in named[label] and word in data.class_names[label]
    clips = torch.cat([clips for clips, _ in data.batches("valid", 100)])
    assert clips.shape[1:] == (1, 80000) and 0.5 < float(clips.std()) < 1.5
