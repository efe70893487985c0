"""Files that are whole or absent."""

import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lwdc.errors import WriteError
from lwdc.files import clear_leftovers, read_json, read_span, read_text, replacing, write_json, write_text

FullDisk = Callable[[int], AbstractContextManager[None]]


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": [1, 2]})
    assert json.loads(path.read_text()) == {"x": [1, 2]}
    assert path.read_text().endswith("\n")
    assert os.listdir(path.parent) == ["b.json"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_the_file_system_refuses_is_one_clear_line(tmp_path: Path, full_disk: FullDisk) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with (
        full_disk(100),
        pytest.raises(
            WriteError, match=r"a\.txt cannot be written \(File too large\): make room on its disk, or choose a folder"
        ),
    ):
        write_text(path, "new" * 100)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folders = {".hydra", ".a.abcdefgh.tmp"}
    kept = {*folders, ".checkpoint.pt.lock", "a.txt", "b.tmp", ".notes.tmp", ".export.abcdefgi"}
    for name in (*kept - folders, ".a.txt.x1_4kabc.tmp"):
        (tmp_path / name).touch()
    for name in (*folders, ".export.x2_4kabc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    clear_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == kept


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # one file system: the renaming is atomic
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ünïcode")
    assert (tmp_path / "a.txt").read_bytes() == "ünïcode".encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_says_who_may_read_what_was_written(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / "a.txt").chmod(0o640)
    write_text(tmp_path / "a.txt", "new")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_span_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    assert read_span(path, 3, 4) == b"3456" and read_span(path, 10, 0) == b""
    with pytest.raises(ValueError, match="ends before its byte 11"):
        read_span(path, 7, 4)
    with pytest.raises(ValueError, match="it has 5 bytes, and 4 at most are read"):
        read_span(path, 0, 5, most=4)
    with pytest.raises(OSError, match="is no file, but a folder"):
        read_span(tmp_path, 0, 0)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"x": 1}', encoding="utf-8-sig")
    assert read_text(path) == '{"x": 1}' and read_json(path) == {"x": 1}


def test_halves_of_characters_are_written_escaped(tmp_path: Path) -> None:
    """So that a page is made of whatever a record holds, such as the name of a file."""
    write_text(tmp_path / "page.html", "a\udcffb")
    assert (tmp_path / "page.html").read_bytes() == b"a\\udcffb"


def test_what_is_private_is_so_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch(mode=0o600)
    with replacing(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
