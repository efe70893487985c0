"""Decoding: pixels of every depth as 8-bit RGB."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from lwdc.data.decoding import decode
from lwdc.errors import DataError

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


@pytest.mark.parametrize(("kind", "order"), [("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")])
def test_16_bits_of_grey_are_so_in_every_format(kind: str, order: str) -> None:
    found = decoded(Image.fromarray((RAMP.astype(np.uint16) * 257).astype(f"{order}u2")), kind)
    assert (found == RAMP[..., None]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused(dtype: type) -> None:
    with pytest.raises(DataError, match=r"32-bit .* numbers of no known range: save it with 8 or 16 bits a channel"):
        decoded(Image.fromarray(RAMP.astype(dtype)), "TIFF")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_taken(kind: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255)]
    assert (decoded(frames[0], kind, save_all=True, append_images=frames[1:]) == 0).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_other_pixels_are_as_pillow_has_them_in_rgb(mode: str) -> None:
    image = Image.fromarray(np.stack([RAMP, RAMP.T, RAMP[::-1], RAMP], axis=-1)).convert(mode)
    assert (decoded(image) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # said once, by Pillow
def test_a_transparent_palette_is_read() -> None:
    image = Image.fromarray(RAMP).convert("P")
    assert (decoded(image, transparency=3) == RAMP[..., None]).all()


def test_12_bits_of_a_tiff_are_scaled_from_12() -> None:
    """As packed pixels, which Pillow reads and does not write."""
    values = np.array([[0, 2048], [4080, 1024]])
    packed = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in values.tolist())
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries
    image = decode("a.tif", lambda: io.BytesIO(content + bytes(4)))
    assert np.asarray(image)[..., 0].tolist() == (values >> 4).tolist()
