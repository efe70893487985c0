"""A real offline W&B run, read back from its own file."""

import dataclasses
import inspect
import json
import runpy
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lwdc.errors import LwdcError
from lwdc.folders import CHECKPOINT
from lwdc.tracking import ReplaySink, WandbSink
from lwdc.training import load_checkpoint

CONFIG = {"seed": 0, "cost": {"name": "macs", "budget": "0.33"}}
CONF = Path(__file__).parents[2] / "conf" / "tracking"


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """W&B without network, account, or files outside the test's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


def wandb_records(directory: Path) -> Iterator:
    """The records of the one offline run under ``directory``, from W&B's own file of them."""
    from wandb.proto import wandb_internal_pb2

    (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    for message in _messages(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        yield record


def _messages(log: bytes) -> Iterator[bytes]:
    """The entries of a log in LevelDB's format: 32 KiB blocks of (checksum, length, kind, data)."""
    position, parts = 7, []  # W&B's own header comes first
    while position < len(log):
        room = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", log, position) if room >= 7 else (0, 0, 0)
        if kind == 0:  # padding up to the next block
            position += room
            continue
        parts.append(log[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole entry, or the last part of one
            yield b"".join(parts)
            parts = []


def keyed(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(directory: Path) -> list[dict]:
    found = (record for record in wandb_records(directory) if record.HasField("history"))
    return [keyed(record.history.item) for record in found]


def _has(row: dict, part: str) -> bool:
    return any(part in key for key in row)


def _table(directory: Path, key: str) -> dict:
    (path,) = [row[f"{key}/path"] for row in history(directory) if f"{key}/path" in row]
    (file,) = directory.glob(f"wandb/offline-run-*/files/{path}")
    return json.loads(file.read_text())


def config(directory: Path) -> dict:
    found: dict = {}
    for record in wandb_records(directory):
        found |= keyed(record.run.config.update) | keyed(record.config.update)
    return found


def summary(directory: Path) -> dict:
    found: dict = {}
    for record in wandb_records(directory):
        found |= keyed(record.summary.update)
    return found


def finish(sink: WandbSink) -> None:
    """Close the run, and end W&B's own process, which else writes the last records a little later."""
    import wandb

    sink.close()
    wandb.teardown()


@pytest.fixture
def run(tmp_path, records, search_records, result):
    """The folder of a real offline run that all records went through."""
    for name in ("architecture.json", "model.onnx", "model_card.md", "model.safetensors"):
        (Path(result.folder) / name).write_text(f"the {name} of a run")
    sink = WandbSink(
        "lwdc-test",
        directory=tmp_path / "run",
        name="demo",
        group="seeds",
        tags=["fast"],
        config=CONFIG,
        run_id="abc",
    )
    for record in [*records[:-1], *search_records, result]:
        sink.write(record)
    assert sink.run_id == "abc"
    assert Path(sink.location).is_dir()
    finish(sink)
    return tmp_path / "run"


def test_a_real_offline_run_holds_all_that_was_tracked(run, result):
    _holds_curves_against_all_steps(history(run))
    _holds_a_chart_per_site(run)
    _holds_evaluations_against_their_number(run)
    _holds_the_learned_space_and_the_evaluators(run)
    _holds_the_configuration(run)
    _holds_the_result(run, result)
    _holds_the_files_released(run, result)


def _holds_curves_against_all_steps(rows):
    curves = {row["step"]: row for row in rows if _has(row, "/loss")}
    assert list(curves) == [20, 40, 60, 80, 100, 120]
    assert curves[20]["baseline/loss"] == 2.0
    assert curves[40]["baseline/valid_accuracy"] == pytest.approx(0.8)
    assert curves[60]["search/expected_cost"] == pytest.approx(0.8)
    assert curves[80]["search/bound"] == pytest.approx(0.56)
    assert curves[80]["search/factor"] == 1.0
    assert curves[80]["search/decided"] == pytest.approx(0.65)
    assert curves[80]["gates/layer2.0.conv1/grouped_4"] == pytest.approx(0.65)
    assert curves[120]["finetune/train_accuracy"] == pytest.approx(0.7)


def _holds_a_chart_per_site(run):
    charts = config(run)
    for site in ("layer1.0.conv1", "layer2.0.conv1"):
        assert f"_wandb/visualize/probabilities/{site}" in charts
        table = _table(run, f"Custom Chart Tables/probabilities/{site}_table")
        assert table["columns"] == ["step", "lineKey", "lineVal"]
        assert [60, "grouped_4", pytest.approx(0.45)] in table["data"]
        assert len(table["data"]) == 2 * 4  # epochs, candidates


def _holds_evaluations_against_their_number(run):
    rows = {row["evaluation"]: row for row in history(run) if _has(row, "evaluations/")}
    assert list(rows) == list(range(1, 13))
    assert rows[6]["evaluations/accuracy"] == pytest.approx(0.71)
    assert rows[6]["evaluations/best"] == 0.91
    assert rows[6]["evaluations/share"] == pytest.approx(0.44)
    assert rows[5]["evaluations/failed"] == 1 and "evaluations/accuracy" not in rows[5]
    steps = {r.metric.name: r.metric.step_metric for r in wandb_records(run) if r.HasField("metric")}
    assert {steps[key] for key in rows[6] if key.startswith("evaluations/")} == {"evaluation"}


def _holds_the_learned_space_and_the_evaluators(run):
    table = _table(run, "embedding")
    assert table["columns"] == ["x", "y", "accuracy", "share"] and len(table["data"]) == 3
    assert _table(run, "embedding_path")["data"] == [[0, 0, 0], [1, 1, 0.5]]  # of the last record alone
    assert _table(run, "rank_correlation")["data"][2] == ["scratch", 0.7, 0.9, 1, 184]
    assert _table(run, "evaluators")["data"][0] == [0.5, 0.5, 0.6, 0.7]
    assert {f"_wandb/visualize/{name}" for name in ("embedding_chart", "evaluators_chart")} <= set(config(run))


def _holds_the_configuration(run):
    found = config(run)
    assert found["seed"] == 0
    assert found["cost"] == CONFIG["cost"]
    (started,) = [record.run for record in wandb_records(run) if record.HasField("run")]
    assert (started.run_id, started.project, started.display_name) == ("abc", "lwdc-test", "demo")
    assert (started.run_group, list(started.tags)) == ("seeds", ["fast"])


def _holds_the_result(run, result):
    found = summary(run)
    assert found["test/finetuned"] == result.test.finetuned
    assert found["test/discretisation_gap"] == pytest.approx(result.discretisation_gap(result.test))
    assert found["after/macs"] == result.after.macs
    assert found["after/ms_batch_64"] == 14.2 and found["after/onnx_ms_batch_64"] == 11.7
    assert found["share/macs"] == pytest.approx(0.325, abs=1e-3)
    table = _table(run, "sites")
    assert [row[:2] for row in table["data"]] == [[site.site, site.operator] for site in result.sites]
    assert table["data"][4][-1] is True


def artifacts(directory: Path) -> dict:
    """The artifacts with files of ours, by type."""
    found = [record.artifact for record in wandb_records(directory) if record.HasField("artifact")]
    return {artifact.type: artifact for artifact in found if artifact.type in ("architecture", "model")}


def _holds_the_files_released(run, result):
    found = artifacts(run)
    for kind, files in (("architecture", {"architecture.json"}), ("model", {"model.onnx", "model_card.md"})):
        assert found[kind].name == f"{kind}-resnet8-on-digits"
        assert {entry.path for entry in found[kind].manifest.contents} == files
        for entry in found[kind].manifest.contents:
            assert entry.size == (Path(result.folder) / entry.path).stat().st_size
        assert set(found[kind].aliases) == {"latest", "macs-0.33", "run-abc"}


def test_aliases_hold_only_what_wandb_takes(tmp_path, result):
    (cost,) = result.costs
    costs = tuple(
        dataclasses.replace(cost, name=name, budget=budget, factor=factor)
        for name, budget, factor in (("macs", "40%", None), ("my: cost/energy", None, 0.5))
    )
    (Path(result.folder) / "architecture.json").write_text("{}")
    sink = WandbSink("lwdc-test", directory=tmp_path / "run", config=CONFIG, run_id="abc")
    sink.write(dataclasses.replace(result, costs=costs, name="a/b:c on d" + "x" * 200))
    finish(sink)
    found = artifacts(tmp_path / "run")
    assert set(found) == {"architecture"}  # no ONNX file there
    assert set(found["architecture"].aliases) == {"latest", "macs-40pct_my-cost-energy-factor-0.5", "run-abc"}
    assert found["architecture"].name.startswith("architecture-a-b-c-on-dxx")


TRAIN = [
    "train", "-m", "seed=0,1", "tracking=wandb", "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]",
    "data.limit_train=64", "compute=cpu", "compute.threads=1", "train.epochs=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "group"),
    [([], "budgets"), pytest.param(["tracking.group=mine"], "mine", marks=pytest.mark.long)],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_runs_of_a_sweep_are_one_group_with_their_whole_configuration(lwdc_in, tmp_path, given, group):
    import wandb

    folder = tmp_path / "budgets"
    code, _, error = lwdc_in(*TRAIN, *given, f"hydra.sweep.dir={folder}")  # W&B leaves a file of its own open
    assert code == 0, error
    wandb.teardown()  # writes what is left
    for seed in (0, 1):
        (started,) = [record.run for record in wandb_records(folder / str(seed)) if record.HasField("run")]
        assert started.run_group == group
        found = config(folder / str(seed))
        asked = json.loads(load_checkpoint(folder / str(seed) / CHECKPOINT)["config"])
        assert {key: found.get(key) for key in asked} == asked
        assert found["seed"] == seed and found["train"]["epochs"] == 1


WORKSPACE = Path(__file__).parents[2] / "experiments" / "wandb_workspace" / "workspace.py"


@pytest.fixture
def workspace(monkeypatch, capsys):
    """The script: what it ends with, and what it says on stdout and stderr."""
    pytest.importorskip("wandb_workspaces")

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [str(WORKSPACE), *arguments])
        capsys.readouterr()
        code = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                runpy.run_path(str(WORKSPACE), run_name="__main__")
            except SystemExit as end:
                code = end.code
        return code, *capsys.readouterr()

    return run


def test_the_workspace_asks_for_what_runs_write_and_needs_no_account(run, workspace):
    code, out, error = workspace("me/lwdc", "--print")
    assert code is None, error
    sections = json.loads(out)["section"]["panelBankConfig"]["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    scatters = [panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot"]
    assert ("summary:share/macs", "summary:test/finetuned") in {(one["xAxis"], one["yAxis"]) for one in scatters}
    (parallel,) = [panel["config"] for panel in panels if panel["viewType"] == "Parallel Coordinates Plot"]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    asked = {column["accessor"] for column in parallel["columns"]}
    asked |= {one[axis] for one in scatters for axis in ("xAxis", "yAxis")}
    assert {key.removeprefix("summary:") for key in asked if not key.startswith("config:")} <= set(summary(run))
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        settings = compose("config")
    keys = [key.removeprefix("config:").replace(".value", "") for key in asked if key.startswith("config:")]
    assert keys and all(OmegaConf.select(settings, key) is not None for key in keys), keys
    logged = {key for row in history(run) for key in row}
    assert {one["xAxis"] for one in lines} == {"step"}
    assert {key for one in lines for key in one["metrics"]} <= logged


def test_the_workspace_takes_other_settings_and_a_project_only(workspace):
    _, out, _ = workspace("me/lwdc", "--print", "--settings", "cost.factor,strategy.lr")
    assert "config:cost.value.factor" in out and "config:strategy.value.lr" in out
    assert "config:seed" not in out
    assert "'lwdc' is not of the form ENTITY/PROJECT" in workspace("lwdc")[2]


def test_a_workspace_without_an_account_is_refused_in_one_line(workspace, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")  # nothing gets out, whoever runs this
    refused, _, _ = workspace("me/lwdc")
    assert str(refused).startswith("error: W&B did not take the workspace (") and "\n" not in str(refused)


def test_a_resumed_run_goes_on_where_its_records_ended(tmp_path, records, search_records):
    sink = WandbSink("lwdc-test", directory=tmp_path / "run", config=CONFIG, run_id="abc")
    assert isinstance(sink, ReplaySink)
    sink.replay([*records[:5], *search_records[-3:]])
    sink.write(records[5])
    finish(sink)
    rows = history(tmp_path / "run")
    assert [row["evaluation"] for row in rows if _has(row, "evaluations/")] == [12]
    assert len(_table(tmp_path / "run", "embedding")["data"]) == 3
    assert [row["step"] for row in rows if _has(row, "/loss")] == [20, 40, 60, 80]
    assert any(_has(row, "probabilities/") for row in rows)


def test_a_run_that_is_refused_leaves_nothing_in_wandb(lwdc_in, tmp_path):
    given = ["backbone=cifar_resnet8", "compute=cpu", "tracking=wandb", "hydra.run.dir=r"]
    code, _, error = lwdc_in("compress", *given, "cost.budget=0.001")
    assert code == 2 and "cannot be reached" in error
    assert not (tmp_path / "r" / "wandb").exists()
    code, _, error = lwdc_in("compress", *given, "tracking.tags=demo")
    assert code == 2 and "write tracking.tags=[demo]" in error
    assert lwdc_in("compress", *given, "tracking.tags=[1]")[0] == 2


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(LwdcError, match=r"tracking.mode is 'of'; it can be offline or online"):
        WandbSink("lwdc-test", mode="of", directory=tmp_path, config={})


def test_a_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(LwdcError, match="tracking=wandb needs wandb, which is not installed: pip install wandb"):
        WandbSink("lwdc-test", directory=tmp_path, config={})


def test_the_configured_sink_takes_every_key_of_its_yaml():
    choice = yaml.safe_load((CONF / "wandb.yaml").read_text())
    assert choice.pop("_target_") == f"{WandbSink.__module__}.{WandbSink.__qualname__}"
    assert choice.pop("_partial_")
    assert choice.pop("_convert_") == "all"
    inspect.signature(WandbSink).bind(**choice, directory=Path(), config={}, run_id=None)
    assert choice["mode"] == "offline"


def test_no_tracking_is_an_empty_choice():
    assert yaml.safe_load((CONF / "none.yaml").read_text()) is None
