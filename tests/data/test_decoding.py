"""Decoding: pixels of every depth as 8-bit RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from lwdc.data.decoding import decode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return np.asarray(decode("image", lambda: io.BytesIO(content.getvalue())))


def test_16_bits_of_grey_are_the_same_picture_as_8() -> None:
    found = decoded(Image.fromarray(RAMP.astype(np.uint16) * 257))
    assert (found == RAMP[..., None]).all() and found.shape == (16, 16, 3)
    found = decoded(Image.fromarray(RAMP.astype(np.uint16) * 256 + 255))
    assert (found == RAMP[..., None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_other_pixels_are_as_pillow_has_them_in_rgb(mode: str) -> None:
    image = Image.fromarray(np.stack([RAMP, RAMP.T, RAMP[::-1], RAMP], axis=-1)).convert(mode)
    assert (decoded(image) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # said once, by Pillow
def test_a_transparent_palette_is_read() -> None:
    image = Image.fromarray(RAMP).convert("P")
    assert (decoded(image, transparency=3) == RAMP[..., None]).all()
