"""Finished runs: evaluated and exported again."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from lwdc.errors import CheckpointError, LwdcError
from lwdc.export import load
from lwdc.pipeline import Settings, compress
from lwdc.pipeline.packages import evaluate_run, export_run, settings_of
from lwdc.records import Result
from lwdc.tracking import parse_record, read_records, replace_last

Finished = tuple[Path, Settings, Result]


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> tuple[Path, Settings, Result]:
    """A run that a test may change."""
    folder, settings, result = finished
    return shutil.copytree(folder, tmp_path / "run"), settings, result


def test_a_run_holds_the_configuration_it_was_started_with(finished: Finished) -> None:
    assert settings_of(finished[0]) == {"seed": 0}


def test_a_folder_without_a_run_has_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        settings_of(tmp_path)


def test_evaluation_finds_the_accuracy_of_the_summary(copied: Finished) -> None:
    folder, settings, result = copied
    figures = evaluate_run(folder, settings)
    assert figures == {"valid": result.valid.finetuned, "test": result.test.finetuned}
    assert json.loads((folder / "evaluation.json").read_text()) == figures


def test_an_unfinished_run_cannot_be_evaluated(copied: Finished) -> None:
    folder, settings, _ = copied
    (folder / "model.json").unlink()
    (folder / "finetuned.safetensors").unlink()
    with pytest.raises(LwdcError, match=r"model\.json"):
        evaluate_run(folder, settings)


def test_exporting_again_writes_the_same_network(copied: Finished) -> None:
    folder, settings, _ = copied
    before = load(folder).state_dict()
    (folder / "model.onnx").unlink()
    records, _ = export_run(folder, dataclasses.replace(settings, formats=("safetensors", "onnx")))
    assert [record.format for record in records] == ["safetensors", "onnx"]
    assert (folder / "model.onnx").is_file()
    assert all(torch.equal(before[key], value) for key, value in load(folder).state_dict().items())


def test_a_result_names_what_is_exported_later_and_what_is_still_there(copied: Finished) -> None:
    folder, settings, result = copied
    lines = read_records(folder / "records.jsonl")
    (folder / "model.onnx").unlink()
    export_run(folder, dataclasses.replace(settings, formats=("torch_export",)))
    *others, last = read_records(folder / "records.jsonl")
    assert others == lines[:-1]
    found = parse_record(last)
    assert isinstance(found, Result)
    assert [record.format for record in found.exports] == ["safetensors", "torch_export"]
    assert found.exports[0] == result.exports[0]
    assert json.loads((folder / "summary.json").read_text()) == last
    card = (folder / "model_card.md").read_text()
    assert "`model.safetensors`" in card and "`model.pt2`" in card and "model.onnx" not in card
    again = compress(settings, folder, {"seed": 0}, resume=True)
    assert again == found


def test_an_onnx_file_that_is_exported_later_is_timed_beside_the_original(copied: Finished) -> None:
    folder, settings, result = copied
    untimed = [dataclasses.replace(each, onnx_ms=None) for each in (result.before, result.after)]
    warning = "nothing was timed in ONNX Runtime, for which the baseline is exported too: no."
    replace_last(
        folder / "records.jsonl",
        dataclasses.replace(result, before=untimed[0], after=untimed[1], warnings=("another", warning)),
    )
    export_run(folder, dataclasses.replace(settings, formats=("onnx",), latency_batches=(2,)))
    found = parse_record(read_records(folder / "records.jsonl")[-1])
    assert isinstance(found, Result)
    for before, measured in zip(untimed, (found.before, found.after), strict=True):
        assert measured.onnx_ms is not None and list(measured.onnx_ms) == ["2"] and measured.onnx_ms["2"] > 0
        assert dataclasses.replace(measured, onnx_ms=None) == before
    assert found.warnings == ("another",)


def test_a_run_without_a_package_is_exported_from_its_weights(copied: Finished) -> None:
    """``export.formats=[]`` leaves no package, and the command is there to make up for it."""
    folder, settings, _ = copied
    package = load(folder).state_dict()
    for name in ("model.json", "model.safetensors", "model.onnx", "model.pt2"):
        (folder / name).unlink()
    assert evaluate_run(folder, settings)["test"] == copied[2].test.finetuned
    export_run(folder, dataclasses.replace(settings, formats=("safetensors",)))
    assert all(torch.equal(package[key], value) for key, value in load(folder).state_dict().items())
