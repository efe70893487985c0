"""The sweep for W&B: what its agent makes of the file is a command of lwdc, and finds there what it searches under."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb.sdk.lib import config_util

FILE = Path(__file__).parents[2] / "experiments" / "wandb_sweep" / "sweep.yaml"
TINY = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "data.limit_train=128", "compute=cpu",
    "train.epochs=1", "strategy.epochs=1", "finetune.epochs=1", "export.formats=[]", "latency_batches=[]",
    "strategy.refit_images=0",
]  # fmt: skip

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], list[str]]]:
    """``agent(values)``: the arguments of lwdc that W&B's agent gives, and the environment that it sets."""
    from wandb.sdk.launch.sweeps import utils  # here: it takes seconds to import

    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "run45678")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "values.yaml"))

    def arguments(values: dict[str, Any]) -> list[str]:
        given = {key: {"value": value} for key, value in values.items()}
        config_util.save_config_file_from_dict(str(tmp_path / "values.yaml"), given)
        parts = utils.create_sweep_command_args({"args": given}) | {"env": ["/usr/bin/env"], "program": ["lwdc"]}
        command: list[str] = []
        for word in utils.create_sweep_command(sweep()["command"]):
            command += parts[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
        assert command[:2] == ["/usr/bin/env", "lwdc"]
        return command[2:]

    wandb.teardown()  # what it has read from the environment before
    yield arguments
    wandb.teardown()


def sweep() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def ends(parameter: dict[str, Any]) -> list[Any]:
    return [parameter["min"], parameter["max"]] if "min" in parameter else parameter["values"]


def test_every_value_of_every_parameter_is_a_setting_of_ours(
    lwdc_in: Run, agent: Callable[[dict[str, Any]], list[str]]
) -> None:
    parameters = sweep()["parameters"]
    for turn in range(max(len(ends(parameter)) for parameter in parameters.values())):
        values = {key: ends(parameter)[turn % len(ends(parameter))] for key, parameter in parameters.items()}
        code, out, error = lwdc_in(*agent(values), "--cfg", "job", "--resolve")
        assert code == 0, error
        config = yaml.safe_load(out)
        for key, value in values.items():
            if "." in key:
                group, name = key.split(".")
                assert config[group][name] == value
        assert config["cost"]["budget"] == "33%" and config["tracking"]["mode"] == "online"


def test_the_search_is_one_that_wandb_knows_and_never_by_the_test_set() -> None:
    found = sweep()
    assert found["method"] in ("bayes", "random", "grid")
    assert found["metric"]["goal"] == "maximize" and found["metric"]["name"].startswith("valid/")
    for parameter in found["parameters"].values():
        assert parameter.keys() in ({"values"}, {"distribution", "min", "max"})
        assert "min" not in parameter or 0 < parameter["min"] < parameter["max"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_under_an_agent_has_the_agents_id_and_the_metric_of_the_sweep(
    lwdc_in: Run, agent: Callable[[dict[str, Any]], list[str]], tmp_path: Path
) -> None:
    values = {"strategy.lr": 0.02, "strategy.prior": 2.0, "gate": "softmax", "finetune.lr": 0.01}
    code, _, error = lwdc_in(*agent(values), *TINY, "tracking.mode=offline")  # W&B leaves a file of its own open
    assert code == 0, error
    (folder,) = Path("outputs/wandb-sweep").iterdir()
    assert folder.name == os.environ["WANDB_RUN_ID"]
    wandb.teardown()  # writes what is left
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert file.name == f"run-{os.environ['WANDB_RUN_ID']}.wandb"
    assert sweep()["metric"]["name"].encode() in file.read_bytes()


def test_outside_of_an_agent_the_same_run_is_named_by_the_environment(
    lwdc_in: Run, agent: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an agent's run that was interrupted can go on in its place."""
    monkeypatch.delenv("WANDB_SWEEP_ID")
    monkeypatch.delenv("WANDB_SWEEP_PARAM_PATH")
    wandb.teardown()
    assert lwdc_in("train", *TINY, "tracking=wandb", "hydra.run.dir=again")[0] == 0
    wandb.teardown()
    (file,) = Path("again").glob("wandb/offline-run-*/run-*.wandb")
    assert file.name == f"run-{os.environ['WANDB_RUN_ID']}.wandb"
