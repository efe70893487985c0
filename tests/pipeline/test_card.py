"""Model cards: written beside the exports of a run."""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import pytest

from lwdc.export.card import card, write_card
from lwdc.pipeline import Settings
from lwdc.records import Result


def test_the_model_card_says_what_a_user_must_know_and_how_to_load(
    finished: tuple[Path, Settings, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, result = finished
    text = (folder / "model_card.md").read_text()
    head, body = text.removeprefix("---\n").split("\n---\n")
    said = dict(line.split(": ", 1) for line in head.splitlines())
    assert json.loads(said["license"]) == "unknown" and json.loads(said["datasets"]) == ["digits"]
    assert f"{100 * result.test.finetuned:.1f}%" in body and f"{100 * result.test.baseline:.1f}%" in body  # type: ignore[operator]
    for export in result.exports:
        assert f"`{export.file}`" in body
    codes = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert len(codes) == len(result.exports)
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for code in codes:  # each works as it stands, where the files are
            exec(compile(code, "model_card.md", "exec"), {})


def test_what_has_to_be_imported_stands_before_loading(finished: tuple[Path, Settings, Result], tmp_path: Path) -> None:
    folder, _, result = finished
    said = json.loads((folder / "model.json").read_text())
    for module, line in (("my_package.networks", "import my_package.networks"), ("timm.models.resnet", None)):
        (tmp_path / "model.json").write_text(json.dumps(said | {"backbone_module": module}))
        write_card(result, tmp_path)
        (code,) = re.findall(r"```python\n([^`]*lwdc\.load[^`]*)```", (tmp_path / "model_card.md").read_text())
        assert code.startswith(line or "import lwdc\n")


@pytest.mark.parametrize("licence", ["apache-2.0", "other"])
def test_a_licence_that_is_given_stands_in_the_head(finished: tuple[Path, Settings, Result], licence: str) -> None:
    assert f'license: "{licence}"\n' in card(finished[2], licence=licence).split("\n---\n")[0]


def test_figures_of_onnx_runtime_are_of_the_cpu_whatever_the_network_ran_on(
    finished: tuple[Path, Settings, Result],
) -> None:
    result = finished[2]
    own, threads = result.environment["cpu"], result.environment["threads"]
    assert f"Milliseconds were measured on: {own}, {threads} threads.\n" in card(result)
    elsewhere = dataclasses.replace(result, environment={**result.environment, "device": "a GPU"})
    assert f"measured on: a GPU, {threads} threads; in ONNX Runtime on: {own}.\n" in card(elsewhere)
