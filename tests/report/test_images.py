"""Figures as files: drawn by a real browser, and what is said where there is none."""

import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from lwdc import cli
from lwdc.errors import LwdcError
from lwdc.report import ReadRun, prints, read_runs, write_images

DRAWN = {"choices", "costs", "curves", "inheritance"}


def report(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lwdc", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_the_command_draws_every_figure_for_print(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("kaleido")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    assert report(monkeypatch, sweep / "0", f"out={tmp_path}/page.html", "--figures") == 0
    folder = tmp_path / "page_figures"
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in DRAWN for kind in ("svg", "png")}
    assert set(capsys.readouterr().out.split()) >= {str(path) for path in folder.iterdir()}
    (run,) = read_runs([sweep / "0"])
    assert run.result is not None
    texts = {name: "".join(ElementTree.parse(folder / f"{name}.svg").getroot().itertext()) for name in DRAWN}
    for name in DRAWN - {"curves"}:
        assert all(site.site in texts[name] for site in run.result.sites), name
    assert "expected cost" in texts["curves"]
    for name, figure in prints.of_runs([run]).items():
        with Image.open(folder / f"{name}.png") as image:
            inches = (figure.layout.width / 96, figure.layout.height / 96)
            assert image.size == pytest.approx([300 * length for length in inches], abs=1), name
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_without_a_figure_to_draw_no_browser_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert write_images([ReadRun(tmp_path, "run", "unfinished", (), (), None)], tmp_path / "figures") == []


def test_a_missing_kaleido_is_named_and_the_page_is_written(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert report(monkeypatch, sweep / "0", f"out={tmp_path}/page.html", "--figures") == 2
    assert "need kaleido 1 or newer, which is not installed: pip install 'lwdc[figures]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_missing_browser_is_named(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(LwdcError, match="need Chrome or Chromium, and none was found: install it"):
        write_images(read_runs([sweep / "0"]), tmp_path / "figures")
    assert list(tmp_path.iterdir()) == []


def test_a_browser_that_does_not_start_is_told_of(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    with pytest.raises(LwdcError, match="the browser that draws the figures does not work") as caught:
        write_images(read_runs([sweep / "0"]), tmp_path / "figures")
    assert "('" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [broken]
