"""Decoding: images of a few formats, within bounds."""

import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image

from lwdc.errors import DataError

# By content, whatever a file is called: of Pillow's others some run programs, and some are seldom looked at.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def decode(name: str, opened: Callable[[], BinaryIO]) -> Image.Image:
    """The image in RGB that ``opened()`` gives to read. Raises ``DataError``, with ``name``, if it cannot be had."""
    try:
        with (
            opened() as file,
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(file, formats=FORMATS) as image,
        ):
            return image.convert("RGB")
    except Exception as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise DataError(
            f"{name} cannot be read as an image ({error}; {', '.join(FORMATS)} of up to 89 million "
            "pixels can); replace it, or let such images be "
            "left out by data.unreadable=skip."
        ) from error
