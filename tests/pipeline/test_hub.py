"""The hub: what is uploaded of a run, against a local folder; nothing of this needs the net."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
import torch

import lwdc
from lwdc import cli
from lwdc.candidates import registry
from lwdc.errors import ExportError
from lwdc.export import hub, run_onnx
from lwdc.pipeline import Settings
from lwdc.records import Result

SENT = {"README.md", "model.json", "model.safetensors", "model.onnx", "model.pt2", "architecture.json"}
Finished = tuple[Path, Settings, Result]


class LocalHub:
    """Stands for the hub: takes the calls that the real one's signatures allow, and keeps files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: Any = None
        self.api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
        self.api.create_repo.side_effect = self._create_repo
        self.api.upload_folder.side_effect = self._upload_folder

    def _create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> huggingface_hub.RepoUrl:
        assert exist_ok
        self.private = private
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def _upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    found = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", mock.create_autospec(huggingface_hub.HfApi, return_value=found.api))
    return found


def lwdc_push(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lwdc", "push", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_what_is_pushed_loads_to_the_same_network_and_says_how(
    finished: Finished, local: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings, _ = finished
    assert lwdc_push(monkeypatch, f"run={run}", "repo=me/small") == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/small\n"
    there = local.folder / "me" / "small"
    assert {path.name for path in there.iterdir()} == SENT
    snapshot = local.folder / "snapshot"  # a download is a folder of links into a cache
    snapshot.mkdir()
    for path in there.iterdir():
        (snapshot / path.name).symlink_to(path)
    text = (snapshot / "README.md").read_text()
    (code,) = (found for found in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "snapshot_download" in found)
    assert '"me/small"' in code
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: str(snapshot))
    scope: dict[str, Any] = {}
    exec(code, scope)
    images = torch.randn(5, *settings.data.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = lwdc.load(run)(images)
        assert torch.equal(scope["network"](images), expected)
    torch.testing.assert_close(run_onnx(snapshot / "model.onnx")(images), expected, rtol=1e-4, atol=1e-4)


def test_the_card_has_what_the_hub_sorts_by(finished: Finished, tmp_path: Path) -> None:
    hub.gather(finished[0], tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "lwdc" and card.data.datasets == ["digits"]
    assert card.data.pipeline_tag == "image-classification"
    assert "top-1 accuracy, test" in card.text and "snapshot_download" not in card.text


def test_no_folder_of_this_machine_is_told(finished: Finished, tmp_path: Path) -> None:
    hub.gather(finished[0], tmp_path)
    for path in tmp_path.iterdir():
        assert str(finished[0].parent).encode() not in path.read_bytes(), path.name


def test_files_that_the_card_does_not_name_stay_at_home(finished: Finished, tmp_path: Path) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    card = run / "model_card.md"
    card.write_text("\n".join(line for line in card.read_text().splitlines() if "model.onnx" not in line))
    assert {path.name for path in hub.gather(run, tmp_path / "out")} == SENT - {"model.onnx"}


def test_the_weights_go_along_where_the_card_names_other_files_alone(finished: Finished, tmp_path: Path) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    card = run / "model_card.md"
    lines = card.read_text().splitlines()
    card.write_text("\n".join(line for line in lines if "model.safetensors" not in line and "model.pt2" not in line))
    assert {path.name for path in hub.gather(run, tmp_path / "out")} == SENT - {"model.pt2"}
    lwdc.load(tmp_path / "out")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_run_without_a_package_is_told_how_to_write_one(finished: Finished, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ExportError) as refused:
        hub.gather(run, tmp_path / "out")
    assert f"lacks {name}; " in str(refused.value)
    assert str(refused.value).endswith(f"by lwdc export run={run} export.formats='[safetensors]' export.int8=false.")


@pytest.mark.parametrize(("given", "private"), [([], True), (["private=true"], True), (["private=false"], False)])
def test_a_new_repository_is_private_unless_it_is_said(
    finished: Finished, local: LocalHub, monkeypatch: pytest.MonkeyPatch, given: list[str], private: bool
) -> None:
    assert lwdc_push(monkeypatch, f"run={finished[0]}", "repo=me/small", *given) == 0
    assert local.private is private


def test_a_folder_takes_what_would_be_sent(
    finished: Finished, local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lwdc_push(monkeypatch, f"run={finished[0]}", "repo=me/small", f"out={tmp_path}/out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == SENT
    assert not local.api.mock_calls


def test_a_folder_with_other_things_is_left_alone(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ExportError, match="holds other things than a package"):
        hub.gather(finished[0], tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "mine")]
    for _ in range(2):  # its own files it may replace
        hub.gather(finished[0], tmp_path / "new")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "model.safetensors").write_bytes(b"other"), "is not the file that model.json belongs to"),
        (lambda run: (run / "model.json").unlink(), "a package is a folder with model.json"),
        (lambda run: (run / "model_card.md").unlink(), "has no model_card.md: name the folder of a finished run"),
        (lambda run: (run / "model.onnx").unlink(), "model.onnx is missing: export the run again"),
    ],
)
def test_what_is_no_whole_run_is_refused_before_anything_is_sent(
    finished: Finished, local: LocalHub, tmp_path: Path, damage: Any, said: str
) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    damage(run)
    with pytest.raises(ExportError, match=said):
        hub.push(run, "me/small")
    assert not local.api.mock_calls


def test_a_refusal_of_the_hub_is_one_line_with_what_to_do(
    finished: Finished, local: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local.api.create_repo.side_effect = huggingface_hub.errors.LocalTokenNotFoundError("no token. And more")
    assert lwdc_push(monkeypatch, f"run={finished[0]}", "repo=me/small") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the hub did not take me/small (no token): ") and "`hf auth login`" in error
    assert error.count("\n") == 1


def test_what_a_network_needs_may_be_imported(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    module = "from lwdc.candidates import register_candidate\nregister_candidate('pushed')(lambda site: None)\n"
    (tmp_path / "pushed_of_mine.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    run = shutil.copytree(finished[0], tmp_path / "run")
    said = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(said | {"operators": {"pushed": "pushed_of_mine"}}))
    given = f"run={run}", f"out={tmp_path}/out"
    assert lwdc_push(monkeypatch, *given) == 2
    assert "trust=pushed_of_mine" in capsys.readouterr().err
    assert lwdc_push(monkeypatch, *given, "trust=pushed_of_mine") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["repo=me/small"], "name the run's folder and the repository"),
        (["run=somewhere"], "name the run's folder and the repository"),
        (["run=somewhere", "repo=me/small", "private=maybe"], "private is 'maybe'; it can be true or false"),
        (["run=somewhere", "out=there", "private=true"], "private= is for the hub"),
        (["run=somewhere", "rep=me/small"], "Did you mean 'repo'?"),
        (["run=somewhere", "me/small"], "unknown setting of push 'me/small'"),
    ],
)
def test_a_wrong_setting_is_refused(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lwdc_push(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err
