"""Tar members: found where they lie, in tar files that are whole."""

import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwdc.data.tar_members import members
from lwdc.errors import DataError

WriteTar = Callable[..., Path]
NAMES = st.lists(st.text("aZ0_é", min_size=1, max_size=70), min_size=1, max_size=5).map("/".join)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@settings(max_examples=15)
@given(st.dictionaries(NAMES, st.binary(max_size=1500), min_size=1, max_size=6), st.sampled_from(FORMATS))
def test_every_member_is_read_where_it_lies(
    write_tar: WriteTar, contents: dict[str, bytes], kind: int
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        inner = write_tar(Path(folder, "a.tar"), contents, kind)
        assert {found.name: found.read(2000) for found in members(inner)} == contents
        outer = write_tar(Path(folder, "b.tar"), {"x.txt": b"x" * 700, "a.tar": inner.read_bytes()})
        inside = list(members(outer))[1]
        assert [(found.name, found.read(2000)) for found in members(outer, inside)] == list(contents.items())


def test_folders_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        folder = tarfile.TarInfo("cat")
        folder.type = tarfile.DIRTYPE
        made.addfile(folder)
        made.addfile(tarfile.TarInfo("cat/1.png"))
    assert [(found.name, found.size) for found in members(tmp_path / "a.tar")] == [("cat/1.png", 0)]


def test_a_tar_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{i}.png": bytes([65 + i]) * 600 for i in range(4)}, tarfile.USTAR_FORMAT)
    whole, end = path.read_bytes(), 4 * (512 + 1024)
    assert whole[end:] == bytes(len(whole) - end)
    for cut in [*range(0, end, 151), *range(0, end + 1, 512)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar file \(.*\); whole, uncompressed ones"):
            list(members(path))


def test_a_damaged_header_does_not_end_a_tar_file_in_silence(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{i}.png": b"x" * 600 for i in range(4)}, tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[2 * 1536 + 3] ^= 1
    path.write_bytes(content)
    with tarfile.open(path) as lenient:
        assert len(lenient.getmembers()) == 2
    with pytest.raises(DataError, match="damaged at byte 3,072"):
        list(members(path))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        list(members(path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["../cat/1.png", "/cat/1.png", "cat/../../1.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, write_tar: WriteTar, name: str) -> None:
    assert f"the member '{name}' leads out of it" in refusal(write_tar(tmp_path / "a.tar", {name: b""}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_and_sparse_members_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as made:
        made.addfile(tarfile.TarInfo("cat/0.png"))
        link = tarfile.TarInfo("cat/1.png")
        link.type, link.linkname = kind, "/etc/passwd"
        made.addfile(link)
    assert "the member 'cat/1.png' is a link or sparse" in refusal(tmp_path / "a.tar")


def header(name: str, kind: bytes, size: bytes) -> bytes:
    """A header of any size field, with the right checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157], block[124:136] = kind, size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S"])
@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\x7f" * 11, (-1 << 40).to_bytes(12, "big", signed=True)]
)
def test_sizes_that_lie_take_no_memory_and_no_time(tmp_path: Path, kind: bytes, size: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(header("a.png", b"0", b"%011o\0" % 0) + header("b.png", kind, size) + bytes(10240))
    assert "cannot be read as a tar file" in refusal(tmp_path / "a.tar")


def test_long_names_and_long_headers_are_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    assert "a name of 600 characters; 512 at most" in refusal(write_tar(tmp_path / "a.tar", {"a" * 600: b""}))
    assert "a header of 10,240 bytes" in refusal(write_tar(tmp_path / "b.tar", {"a" * 10_000: b""}))


def test_a_compressed_tar_file_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as made:
        made.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    assert "whole, uncompressed ones are" in refusal(tmp_path / "a.tar")
