"""Wav files are read as 16-bit mono samples of the wanted rate, or refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwdc.data.wav import centre, read_wav, resample
from lwdc.errors import DataError

WriteWav = Callable[..., Path]


def sine(frequency: float, rate: int, seconds: float = 0.5, peak: float = 10000.0) -> np.ndarray:
    return peak * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def test_16_bit_samples_are_read_as_they_are(write_wav: WriteWav, tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768, 513])
    read = read_wav(write_wav(tmp_path / "a.wav", samples), 8000)
    assert read.dtype == np.int16 and read.tolist() == samples.tolist()


def test_8_bit_samples_are_centred_and_widened(write_wav: WriteWav, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", np.array([128, 0, 255, 129]), width=1)
    assert read_wav(file, 8000).tolist() == [0, -32768, 127 * 256, 256]


def test_channels_are_averaged(write_wav: WriteWav, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", np.array([100, 300, 32767, 32767, -7, 7]), channels=2)
    assert read_wav(file, 8000).tolist() == [200, 32767, 0]


@pytest.mark.parametrize("frequency", [100, 1000, 5000])
def test_a_tone_at_44100_hz_is_the_same_tone_at_16000_hz(frequency: int, write_wav: WriteWav, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", sine(frequency, 44100).round(), rate=44100)
    read, expected = read_wav(file, 16000), sine(frequency, 16000)
    assert len(read) == 8000
    middle = slice(100, -100)  # the filter needs some samples at either end
    assert np.abs(read - expected)[middle].max() < 100  # 1% of the peak


def test_a_tone_that_the_lower_rate_cannot_hold_is_gone_not_folded() -> None:
    assert np.abs(resample(sine(12000, 44100).astype(np.int16), 44100, 16000))[100:-100].max() < 100


def test_resampling_cannot_wrap_around() -> None:
    square = np.where(sine(300, 44100) > 0, 32767, -32768).astype(np.int16)  # overshoots when filtered
    resampled = resample(square, 44100, 16000)
    assert resampled.max() == 32767 and resampled.min() == -32768
    loud = np.sign(sine(300, 16000))[100:-100], np.sign(resampled.astype(float))[100:-100]
    assert (loud[0] == loud[1]).mean() > 0.95


def test_a_short_sound_gets_zeros_at_both_ends_a_long_one_keeps_its_middle() -> None:
    sound = np.arange(1, 6)
    assert centre(sound, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert centre(sound, 5).tolist() == [1, 2, 3, 4, 5]
    assert centre(sound, 3).tolist() == [2, 3, 4]
    assert centre(sound, 2).tolist() == [2, 3]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        read_wav(path, 8000)
    assert str(raised.value).startswith(str(path))
    return str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "is missing" in refusal(tmp_path / "absent.wav")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"ID3 no wav file at all, but long enough", b"\0" * 100])
def test_a_file_of_another_kind_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert "cannot be read as a wav file (" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("kept", [20, 44, 45, 60, -1])
def test_a_truncated_file_is_refused(kept: int, write_wav: WriteWav, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", np.arange(100))
    file.write_bytes(file.read_bytes()[:kept])
    assert "fetch it again" in refusal(file)


def test_a_file_without_sound_is_refused(write_wav: WriteWav, tmp_path: Path) -> None:
    assert "0 of 0 samples" in refusal(write_wav(tmp_path / "a.wav", np.zeros(0)))


def test_other_widths_are_refused(write_wav: WriteWav, tmp_path: Path) -> None:
    assert "32-bit samples at 8000 Hz; 8- and 16-bit" in refusal(write_wav(tmp_path / "a.wav", np.zeros(4), width=4))
