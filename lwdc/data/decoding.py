"""Decoding: images of a few formats, within bounds."""

import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from lwdc.errors import DataError

# By content, whatever a file is called: of Pillow's others some run programs, and some are seldom looked at.
FORMATS = {  # and how such files are called in class folders and shards
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}


def decode(name: str, opened: Callable[[], BinaryIO]) -> Image.Image:
    """The image in RGB that ``opened()`` gives to read, of several the first; of 16 bits a channel the upper 8.

    Raises ``DataError``, with ``name``, if it cannot be had.
    """
    try:
        with (
            opened() as file,
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(file, formats=tuple(FORMATS)) as image,
        ):
            return _in_8_bits(image).convert("RGB")
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise DataError(
            f"{name} cannot be read as an image ({error}; {', '.join(FORMATS)} of up to 89 million "
            "pixels can); replace it, or let such images be "
            "left out by data.unreadable=skip."
        ) from error


def _in_8_bits(image: Image.Image) -> Image.Image:
    """``image``, unless its grey values have more bits: Pillow would not scale these to RGB, but clip them at 255."""
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        # The upper bits, as Pillow has it of 16-bit colours. Tag 258 of a TIFF says how many it has, 12 in some.
        bits = image.tag_v2.get(258, (16,))[0] if isinstance(image, TiffImageFile) else 16
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "whole" if image.mode == "I" else "floating-point"
        raise ValueError(
            f"its pixels are signed or 32-bit {kind} numbers of no known range: save it with 8 or 16 bits a channel"
        )
    return image
