"""int8 in a run: measured beside float32, shown everywhere, refused where there is nothing to quantise."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lwdc.errors import LwdcError
from lwdc.export import load, run_onnx
from lwdc.pipeline import Settings, compress
from lwdc.pipeline.packages import export_run
from lwdc.pipeline.quantising import warning_of
from lwdc.records import FileMeasures, Int8Result, Result, as_dict
from lwdc.report import read_runs, write_report
from lwdc.tracking import TerminalSink, parse_record

Run = tuple[Path, Settings, Result]


@pytest.fixture(scope="module")
def quantised(settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("int8") / "run"
    given = settings(formats=("safetensors", "onnx"), int8=True, latency_batches=(1, 8))
    result = compress(given, folder, {})
    assert result is not None
    return folder, given, result


def test_both_files_are_measured(quantised: Run) -> None:
    folder, given, result = quantised
    assert result.int8 is not None
    for found in (result.int8.float32, result.int8.int8):
        path = folder / found.file
        assert found.bytes == path.stat().st_size
        assert set(found.latency_ms) == {"1", "8"} and min(found.latency_ms.values()) > 0
        (images, labels), *rest = given.data.batches("test", 10_000)
        assert not rest
        right = run_onnx(path)(images).argmax(1) == labels
        assert found.test == pytest.approx(float(right.float().mean()))
    assert result.int8.float32.test == pytest.approx(result.test.finetuned)
    assert result.int8.int8.test == pytest.approx(result.int8.float32.test, abs=0.1)
    with torch.no_grad():
        torch.testing.assert_close(load(folder)(images), run_onnx(folder / "model.onnx")(images), rtol=0, atol=1e-3)


def test_it_is_shown_on_the_terminal_the_card_and_the_page(quantised: Run, tmp_path: Path) -> None:
    folder, _, result = quantised
    out = io.StringIO()
    TerminalSink(Console(file=out)).write(result)
    write_report(read_runs([folder]), tmp_path / "page.html")
    for text in (out.getvalue(), (folder / "model_card.md").read_text(), (tmp_path / "page.html").read_text()):
        assert "int8, in ONNX Runtime" in text
    assert "`model.int8.onnx`" in (folder / "model_card.md").read_text()


def test_records_with_and_without_it_are_read_back(quantised: Run) -> None:
    data = json.loads(json.dumps(as_dict(quantised[2])))
    assert parse_record(data) == quantised[2]
    del data["int8"]  # of a version that had none
    assert parse_record(data) == dataclasses.replace(quantised[2], int8=None)


def test_exporting_again_quantises_again(quantised: Run) -> None:
    folder, given, result = quantised
    (folder / "model.int8.onnx").unlink()
    _, found = export_run(folder, given)
    assert found is not None and result.int8 is not None
    assert (found.int8.test, found.int8.bytes) == (result.int8.int8.test, result.int8.int8.bytes)
    assert (folder / "model.int8.onnx").is_file()


def test_int8_stays_in_the_result_while_its_files_do(quantised: Run, tmp_path: Path) -> None:
    given, folder = quantised[1], shutil.copytree(quantised[0], tmp_path / "run")
    other = dataclasses.replace(given, formats=("safetensors",), int8=False)
    assert export_run(folder, other)[1] is None
    assert read_runs([folder])[0].result.int8 is not None
    assert "`model.int8.onnx`" in (folder / "model_card.md").read_text()
    (folder / "model.int8.onnx").unlink()
    export_run(folder, other)
    assert read_runs([folder])[0].result.int8 is None
    assert "int8" not in (folder / "model_card.md").read_text()


def test_without_an_onnx_file_there_is_nothing_to_quantise(settings: Callable[..., Settings]) -> None:
    with pytest.raises(LwdcError, match=r"add onnx to export\.formats"):
        settings(int8=True, formats=("safetensors",))
    with pytest.raises(LwdcError, match=r"export\.int8 is true or false, found 'maybe'"):
        settings(int8="maybe")


@pytest.mark.parametrize(("lost", "warned"), [(0.005, False), (-0.1, False), (0.021, True)])
def test_much_accuracy_lost_is_a_warning(lost: float, warned: bool) -> None:
    before = FileMeasures("model.onnx", 4, 0.9, 0.9, {})
    text = warning_of(Int8Result(before, dataclasses.replace(before, valid=0.9 - lost)))
    assert (text is not None) == warned
    assert text is None or "2.1 points" in text
