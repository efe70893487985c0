"""Progress: a bar on a terminal, which is gone at the end, and a line now and then elsewhere."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

import lwdc
from lwdc import progress
from lwdc.backbones import Backbone
from lwdc.errors import ExportError
from lwdc.export import FORMATS, export_all
from lwdc.records import ExportRecord


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a bar draws on a terminal of 100 columns."""
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return drawn


def test_a_terminal_sees_a_bar_and_gets_every_item(terminal: io.StringIO) -> None:
    assert list(progress.tracked([3, 1, 2], "counting")) == [3, 1, 2]
    shown = terminal.getvalue()
    assert "counting" in shown and "100%" in shown
    assert shown.endswith("\x1b[2K")  # the line is empty again


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        (19.0, []),
        (45.0, ["counting: 2 of 4, 1m30s left"]),
        (60.0, ["counting: 1 of 4, 3m00s left", "counting: 2 of 4, 2m00s left", "counting: 3 of 4, 1m00s left"]),
    ],
)
def test_what_is_no_terminal_sees_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, seconds: float, lines: list[str]
) -> None:
    drawn, clock = io.StringIO(), [0.0]
    console = Console(file=drawn, force_terminal=False, get_time=lambda: clock[0])
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    got = []
    for item in progress.tracked("abcd", "counting"):
        got.append(item)
        clock[0] += seconds
    assert got == [*"abcd"]
    assert drawn.getvalue().splitlines() == lines


def export(folder: Path) -> tuple[ExportRecord, ...]:
    torch.manual_seed(0)
    backbone = Backbone("cifar_resnet8", 10, 1)
    return export_all(
        folder, backbone.create(), lwdc.Architecture({}), formats=("safetensors", "onnx"), backbone=backbone,
        input_size=(1, 8, 8),
    )  # fmt: skip


def test_exports_have_a_bar(terminal: io.StringIO, tmp_path: Path) -> None:
    assert [record.format for record in export(tmp_path)] == ["safetensors", "onnx"]
    shown = terminal.getvalue()
    assert "exporting and verifying safetensors, onnx" in shown
    assert "50%" in shown and "100%" in shown


def test_an_export_that_fails_takes_its_bar_along(
    terminal: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ExportError("no")

    monkeypatch.setitem(FORMATS, "onnx", fails)
    with pytest.raises(ExportError) as caught:
        export(tmp_path)
    assert caught.traceback  # which still holds the frames, and with them whatever was not closed
    assert terminal.getvalue().endswith("\x1b[2K")
