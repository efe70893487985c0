"""Wav files: 8- and 16-bit PCM as 16-bit mono samples of a wanted rate and length."""

import io
import math
import wave
from pathlib import Path

import numpy as np

from lwdc.errors import DataError
from lwdc.files import read_bytes

_MOST_SAMPLES = 10_000_000  # after resampling: ten minutes at 16 kHz
_RATES = range(1_000, 192_001)  # Hz; others would make resampling take any time and memory


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """The sound as int16 ``(samples,)``, its channels averaged, resampled to ``sample_rate`` if need be.

    Raises ``DataError``, with the file's name, if it is missing, damaged or of another kind.
    """
    try:
        with wave.open(io.BytesIO(read_bytes(path)), "rb") as file:
            channels, width, rate, count, *_ = file.getparams()
            content = file.readframes(count)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; fetch the data again.") from error
    except Exception as error:  # wave's reader raises whatever a damaged file makes it stumble over
        reason = str(error) or "it ends too soon"
        raise DataError(f"{path} cannot be read as a wav file ({reason}); fetch it again.") from error
    if width not in _DECODED or rate not in _RATES:
        raise DataError(
            f"{path} has {8 * width}-bit samples at {rate} Hz; 8- and 16-bit PCM of {_RATES[0]:,} to {_RATES[-1]:,} Hz "
            "can be read: convert it."
        )
    if count == 0 or len(content) < count * channels * width:
        raise DataError(
            f"{path} is truncated: it holds {len(content) // (channels * width)} of {count} samples; fetch it again."
        )
    if count * sample_rate > _MOST_SAMPLES * rate:
        raise DataError(
            f"{path} has {count / rate:.0f} s; {_MOST_SAMPLES / sample_rate:.0f} at most are read: cut it into pieces."
        )
    samples = _DECODED[width](content[: count * channels * width]).reshape(count, channels)
    return resample(samples[:, 0] if channels == 1 else _rounded(samples.mean(axis=1)), rate, sample_rate)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound, int16 ``(samples,)``, at another rate in Hz, without what the lower rate cannot hold."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # here: it takes a second to import

    shared = math.gcd(rate, wanted)
    return _rounded(resample_poly(samples.astype(np.float32), wanted // shared, rate // shared))


def centre(samples: np.ndarray, length: int) -> np.ndarray:
    """``length`` samples: zeros at both ends of a shorter sound, the middle of a longer one."""
    spare = length - len(samples)
    if spare < 0:
        return samples[-spare // 2 :][:length]
    return np.pad(samples, (spare // 2, spare - spare // 2))


def _rounded(samples: np.ndarray) -> np.ndarray:
    return samples.round().clip(-32768, 32767).astype(np.int16)


_DECODED = {  # by bytes a sample; wav stores 8 bits without a sign
    1: lambda content: (np.frombuffer(content, np.uint8).astype(np.int16) - 128) * 256,
    2: lambda content: np.frombuffer(content, "<i2").astype(np.int16),
}
