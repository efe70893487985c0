"""Free Spoken Digits: the official test takes, clips of one length, and what is said of missing recordings."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lwdc.data import Fsdd
from lwdc.errors import DataError

WriteWav = Callable[..., Path]
CPU = torch.device("cpu")
OPTIONS = {"length": 64, "shift": 8, "valid": 20}


@pytest.fixture
def root(write_wav: WriteWav, tmp_path: Path) -> Path:
    """Two speakers, ten digits, seven takes of 40 samples, each sample ``100 * digit + take + 1``."""
    for speaker in ("ann", "bob"):
        for digit in range(10):
            for take in range(7):
                samples = np.full(40, 100 * digit + take + 1)
                write_wav(tmp_path / "FSDD" / "recordings" / f"{digit}_{speaker}_{take}.wav", samples)
    return tmp_path


def prepared(root: Path, **options: float) -> Fsdd:
    data = Fsdd(root, **{**OPTIONS, **options})
    data.prepare(CPU)
    return data


def stored(data: Fsdd, split: str) -> Iterator[tuple[int, int, int]]:
    """Digit and take that a clip's samples tell, and its label."""
    part = data._splits[split]
    for clip, label in zip(part.inputs[:, 0], part.labels.tolist(), strict=True):
        digit, take = divmod(int(clip.max()) - 1, 100)
        yield digit, take, label


def test_takes_below_five_are_the_test_and_the_others_are_split(root: Path) -> None:
    data = prepared(root)
    clips = {split: list(stored(data, split)) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in clips.items()} == {"train": 20, "valid": 20, "test": 100}
    assert {take for _, take, _ in clips["test"]} == {0, 1, 2, 3, 4}
    assert {take for split in ("train", "valid") for _, take, _ in clips[split]} == {5, 6}
    assert all(digit == label for found in clips.values() for digit, _, label in found)
    assert data._splits["valid"].labels.bincount().tolist() == [2] * 10


def test_short_recordings_are_centred_in_zeros_and_scaled(root: Path) -> None:
    data = prepared(root)
    inputs, labels = next(data.batches("test", 100))
    assert inputs.shape == (100, 1, 64) and data.input_size == (1, 64)
    assert not inputs[:, 0, :12].any() and not inputs[:, 0, 52:].any()
    expected = (100 * labels[1] + 2) / 32768 / data.preprocessing.std[0]  # the second take of digit 0
    assert inputs[1, 0, 12:52].tolist() == pytest.approx([float(expected)] * 40)


def test_long_recordings_keep_their_middle(root: Path, write_wav: WriteWav) -> None:
    write_wav(root / "FSDD/recordings/0_ann_0.wav", np.arange(100))
    assert prepared(root)._splits["test"].inputs[0, 0].tolist() == list(range(18, 82))


def test_an_epoch_resumed_from_a_step_is_the_rest_of_it_bit_for_bit(root: Path) -> None:
    data = prepared(root, gain_db=6.0)
    whole = list(data.train(seed=3, epoch=2, batch_size=5))
    rest = list(data.train(seed=3, epoch=2, batch_size=5, start=2))
    assert len(whole) == 4 and len(rest) == 2
    for (clips, labels), (same_clips, same_labels) in zip(whole[2:], rest, strict=True):
        assert torch.equal(clips, same_clips) and torch.equal(labels, same_labels)
    other = next(data.train(seed=3, epoch=3, batch_size=5))[0]
    assert not torch.equal(whole[0][0], other)


def test_training_clips_are_moved_and_others_not(root: Path) -> None:
    data = prepared(root)
    heard = torch.cat([clips for clips, _ in data.train(seed=0, epoch=0, batch_size=20)])[:, 0] != 0
    assert heard.sum(1).tolist() == [40] * 20
    begins = heard.int().argmax(1)
    assert 4 <= int(begins.min()) < 12 < int(begins.max()) <= 20
    assert {int((clips[:, 0] != 0).int().argmax(1).max()) for clips, _ in data.batches("train", 20)} == {12}


def test_missing_data_say_what_to_fetch_and_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0_jackson_0\.wav in .*FSDD/recordings; fetch the Free Spoken Digit Dataset"):
        prepared(tmp_path)


def test_a_missing_recording_is_named(root: Path) -> None:
    (root / "FSDD/recordings/3_bob_4.wav").unlink()
    with pytest.raises(DataError, match=r"3_bob_4\.wav is missing"):
        prepared(root)


def test_a_damaged_recording_is_named(root: Path) -> None:
    file = root / "FSDD/recordings/3_bob_6.wav"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"3_bob_6\.wav is truncated: it holds 35 of 40 samples"):
        prepared(root)


def test_a_length_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="length is 0"):
        Fsdd("nowhere", length=0)


@pytest.mark.needs("FSDD/recordings")
def test_the_real_set_is_whole_and_normalised(data_root: Path) -> None:
    data = Fsdd(data_root)
    data.prepare(CPU)
    assert {split: len(part.labels) for split, part in data._splits.items()} == {
        "train": 2400, "valid": 300, "test": 300
    }  # fmt: skip
    assert all(set(part.labels.bincount().tolist()) in ({240}, {30}) for part in data._splits.values())
    clips = torch.cat([clips for clips, _ in data.batches("train", 1000)])
    assert clips.shape[1:] == data.input_size == (1, 8000)
    assert abs(float(clips.mean())) < 0.03 and abs(float(clips.std()) - 1) < 0.03
