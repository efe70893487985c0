"""Composing: what a stranger's configuration asks of Hydra and of lwdc is refused before any of it is run."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from lwdc.candidates import registry
from lwdc.training import save_checkpoint

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr

TRAP = "import pathlib\npathlib.Path('imported').touch()\ndef spring(*a, **k): pathlib.Path('sprung').touch()\n"
SMALL = ["backbone=cifar_resnet8", "inspect.input_size=[1,8,8]"]


@pytest.fixture
def stranger(lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``stranger(yaml, *arguments)``: the error that a command gives with that file among its configs."""
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)

    def run(text: str, *arguments: str) -> str:
        folder = tmp_path / "theirs" / "shared"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "their.yaml").write_text("# @package _global_\n" + text)
        given = arguments or ("inspect",)
        code, _, error = lwdc_in(*given, *SMALL, "+shared=their", f"--config-dir={folder.parent}")
        assert code == 2, error
        assert error.startswith("error: ") and error.count("\n") == 1
        assert {"imported", "sprung", "__pycache__"}.isdisjoint(os.listdir(tmp_path))
        return error

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gate: {_target_: trap.spring}", "gate._target_ names trap.spring"),
        ("gate: {_target_: os.system, command: touch sprung}", "trust=os.system"),
        ("gate: {x: [{y: {_target_: trap.spring}}]}", "gate.x[0].y._target_"),
        ("unused: {_target_: trap.spring}", "unknown setting 'unused'"),
        ("backbone: {options: {x: {_target_: trap.spring}}}", "backbone.options.x._target_"),
        ("data: {_target_: torch.nn.modules.module.functools.partial}", "functools.partial"),
        ("tracking: {_target_: trap.spring}", "tracking._target_"),
        ("trust: [trap]\ngate: {_target_: trap.spring}", "trust"),
        ("hydra: {callbacks: {x: {_target_: trap.spring}}}", "hydra.callbacks"),
        ("hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}", "hydra.job.env_set"),
        ("hydra: {hydra_logging: {handlers: {x: {(): trap.spring}}, root: {handlers: [x]}}}", "hydra.hydra_logging"),
        ("hydra: {job_logging: {formatters: {x: {(): trap.spring}}}}", "hydra.job_logging"),
        ("hydra: {sweeper: {params: {x: {_target_: trap.spring}}}}", "hydra.sweeper.params.x._target_"),
        ("hydra: {sweeper: {params: '${oc.select:no,{_target_: trap.spring}}'}}", "hydra.sweeper.params"),
        ("hydra: {sweeper: {params: '${unless:null,{_target_: trap.spring}}'}}", "hydra.sweeper.params"),
        ("evil: {x: {_target_: trap.spring}}\nhydra: {sweeper: {params: '${evil}'}}", "hydra.sweeper.params"),
        ("hydra: {job_logging: '${sel[${oc.select:hydra.runtime.output_dir,quiet}]}'}", "hydra.job_logging"),
        (
            "resume: {None: {}, RUN: {x: {_target_: trap.spring}}}\nhydra: {callbacks: '${resume[${hydra.mode}]}'}",
            "hydra.callbacks",
        ),
        (
            "resume: {None: lwdc.gates.OneHot, RUN: trap.spring}\ngate: {_target_: '${resume[${hydra.mode}]}'}",
            "_target_",
        ),
        (
            "resume: lwdc.costs.\nrun: Macs\ncost: {also: {latency: {resume: trap., run: spring, budget: 50%, "
            "model: {_target_: '${resume}${run}'}}}}",
            "cost.also.latency.model",
        ),
        ("gate: '${unless:null,{_target_: trap.spring}}'", "gate._target_"),
        ("gate: {x: '${oc.create:{_target_: trap.spring}}'}", "oc.create"),
        ("gate: {x: '${oc.decode:\"{_target_: trap.spring}\"}'}", "oc.decode"),
        ("gate: {x: '\\${unless:null,{_target_: trap.spring}}'}", "interpolation"),
        ("seed: ${oc.env:A_SECRET}", "A_SECRET may be read only if the command line names it"),
    ],
)
def test_a_strangers_file_runs_nothing(
    stranger: Callable[..., str], text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "42")
    error = stranger(text)
    assert said in error and "42" not in error.replace("A_SECRET", "")


def test_nor_does_it_in_a_sweep(stranger: Callable[..., str]) -> None:
    callback = "hydra: {callbacks: {x: {_target_: trap.spring}}}"
    assert "hydra.callbacks" in stranger(callback, "train", "-m", "seed=0,1", "hydra.sweep.dir=s")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The mode of everything that Hydra composes."""
    modes: list[str] = []
    own = ConfigLoaderImpl.load_configuration

    def counted(self: Any, name: Any, overrides: Any, mode: Any, *rest: Any) -> Any:
        modes.append(mode.name)
        return own(self, name, overrides, mode, *rest)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    return modes


def test_what_a_command_runs_is_composed_once(lwdc_in: Run, composed: list[str]) -> None:
    assert lwdc_in("inspect", *SMALL)[0] == 0
    assert composed == ["RUN"]
    code, _, error = lwdc_in("inspect", *SMALL, "seed=1,2")
    assert code != 0 and "Ambiguous value for argument 'seed=1,2'" in error


@pytest.mark.parametrize("asks", ["-m", "hydra.mode=MULTIRUN"])
def test_what_a_sweep_begins_with_is_composed_once(asks: str, lwdc_in: Run, composed: list[str]) -> None:
    code, out, error = lwdc_in("inspect", asks, *SMALL, "cost.budget=0.4,0.6", "hydra.sweep.dir=s")
    assert code == 0, error
    assert composed.count("MULTIRUN") == 1
    assert out.count("left alone") == 2 * 2  # stem and classifier, in each of two
    code, _, error = lwdc_in("inspect", asks, *SMALL, "hydra.verbose=true,false")
    assert code != 0 and "Sweeping over Hydra's configuration is not supported" in error


def test_a_choice_of_mode_in_a_file_counts(lwdc_in: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    arguments = ["inspect", *SMALL, "experiment=many", f"--config-dir={tmp_path / 'own'}", "hydra.sweep.dir=s"]
    code, out, error = lwdc_in(*arguments, "seed=1,2")
    assert code == 0, error
    assert out.count("left alone") == 2 * 2


def test_no_package_is_searched_for_configurations_that_the_command_line_did_not_name(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("defaults: [config, _self_]\nhydra: {searchpath: ['pkg://trap']}")
    code, _, error = lwdc_in("inspect", *SMALL, "--config-dir=own", "--config-name=mine")
    assert code == 2 and "hydra.searchpath" in error
    assert "imported" not in os.listdir(tmp_path)


def test_a_group_may_have_choices_of_a_folder_that_is_named(lwdc_in: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "gate").mkdir(parents=True)
    (tmp_path / "own" / "gate" / "mine.yaml").write_text("_target_: lwdc.gates.OneHot\n_partial_: true")
    assert lwdc_in("inspect", *SMALL, "gate=mine", "--config-dir=own")[0] == 0


def test_a_line_of_a_clusters_script_stays_one(stranger: Callable[..., str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    text = 'defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {comment: "a\\ntouch sprung"}}'
    assert "hydra.launcher.comment" in stranger(text, "train", "-m", "seed=0,1", "hydra.sweep.dir=s")


def test_a_cluster_runs_no_commands_of_a_file(stranger: Callable[..., str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    text = "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {setup: [touch sprung]}}"
    assert "hydra.launcher.setup" in stranger(text, "train", "-m", "seed=0,1", "hydra.sweep.dir=s")


def test_the_command_line_may_trust_and_the_trust_ends_with_it(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gates_of_mine.py").write_text("from lwdc.gates import Softmax\nclass Mine(Softmax): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = ["inspect", *SMALL, "gate._target_=gates_of_mine.Mine"]
    for trusted in ("gates_of_mine.Mine", "[json,gates_of_mine]"):
        code, _, error = lwdc_in(*given, f"trust={trusted}")
        assert (code, error) == (0, "")
    code, _, error = lwdc_in(*given)
    assert code == 2 and "trust=gates_of_mine.Mine" in error
    code, _, error = lwdc_in(*given, "trust=os;system")
    assert code == 2 and "trust=my_package.MyData" in error


OWN = """
from lwdc.candidates import DoesNotFit, register_candidate
from timm.models import create_model, register_model

@register_candidate("of_mine")
def of_mine(site): raise DoesNotFit("it is only a name")

@register_model
def net_of_mine(pretrained=False, **given):
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        given.pop(name, None)
    return create_model("cifar_resnet8", **given)
"""


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("space.candidates=[{op: original}, {op: of_operator}, {op: zero}]", "operator"),
        ("backbone.name=net_of_backbone", "backbone"),
    ],
)
def test_what_is_trusted_is_imported_so_that_what_it_registers_is_known(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, kind: str
) -> None:
    name = f"own_{kind}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("of_mine", f"of_{kind}"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    code, _, error = lwdc_in("inspect", *SMALL, given)
    assert code == 2 and f"unknown {kind}" in error and "trust=my_package.module" in error
    assert lwdc_in("inspect", "tran.epochs=3", f"trust={name}")[0] == 2 and name not in sys.modules
    code, _, error = lwdc_in("inspect", *SMALL, given, f"trust={name}")
    assert (code, error) == (0, "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_to_be_found", "cannot be found (No module named 'nowhere_to_be_found')"),
        ("broken_of_mine", "cannot be imported (it is broken): mend that module"),
    ],
)
def test_trust_in_what_cannot_be_imported_is_an_error(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "broken_of_mine.py").write_text("raise ValueError('it is broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, _, error = lwdc_in("inspect", *SMALL, f"trust={name}")
    assert code == 2 and f"trust: '{name}' {said}" in error


def test_a_cost_of_ones_own_may_stand_beside_another(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = "class Energy(Params):\n    def __init__(self): super().__init__('energy', 'J')\n"
    (tmp_path / "costs_of_mine.py").write_text(f"from lwdc.costs import Params\n{written}")
    (tmp_path / "mine" / "cost").mkdir(parents=True)
    file = tmp_path / "mine" / "cost" / "energy.yaml"
    file.write_text("defaults: [macs]\nmodel: {_target_: costs_of_mine.Energy}\n")
    monkeypatch.syspath_prepend(tmp_path)
    beside = ["inspect", *SMALL, "cost.also.energy.budget=50%"]
    for given in (["--config-dir=mine"], ["cost.also.energy.model._target_=costs_of_mine.Energy"]):
        code, out, error = lwdc_in(*beside, *given, "trust=costs_of_mine")
        assert (code, error) == (0, "") and "of the energy; reachable: " in out
        code, _, error = lwdc_in(*beside, *given)  # whatever file says so
        assert code == 2 and "cost.also.energy.model._target_ names costs_of_mine.Energy" in error
    code, _, error = lwdc_in(*beside)
    assert code == 2 and "unknown cost 'energy'" in error and "cost.also.energy.model._target_=" in error
    file.write_text("defaults: [energy]\nmodel: {_target_: costs_of_mine.Energy}\n")
    code, _, error = lwdc_in(*beside, "--config-dir=mine", "trust=costs_of_mine")
    assert code == 2 and "its defaults can name other costs of that group, found 'energy'" in error


def test_variables_that_the_command_line_names_are_read(lwdc_in: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SEED", "7")
    assert lwdc_in("inspect", *SMALL, "seed=${oc.env:MY_SEED}")[0] == 0


def test_naming_a_variable_allows_no_other_that_its_name_begins_with(
    stranger: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "42")
    monkeypatch.setenv("A_SECRET_NAME", "7")
    error = stranger("train: {batch_size: '${oc.env:A_SECRET}'}", "inspect", "seed=${oc.env:A_SECRET_NAME}")
    assert "A_SECRET may be read only if the command line names it" in error


def checkpoint(folder: Path, config: dict[str, Any]) -> None:
    state = {"config": json.dumps(config), "done": {}, "fit": None, "records": 0, "x": torch.zeros(1)}
    save_checkpoint(folder / "checkpoint.pt", state)
    (folder / "records.jsonl").touch()


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x._target_=trap.spring",
        "hydra/launcher=submitit_slurm",
        "~hydra.run",
        "--config-dir=theirs",
        "-m",
        "--multirun",
        "trust=trap",
        "+trust=[trap]",
        7,
        {"a": 1},
    ],
)
def test_a_run_that_was_sent_adds_nothing_to_the_command(lwdc_in: Run, tmp_path: Path, override: Any) -> None:
    checkpoint(tmp_path / "sent", {"overrides": ["seed=0", override]})
    for command in (["compress", "resume=sent"], ["finetune", "run=sent"]):
        code, _, error = lwdc_in(*command)
        assert code == 2 and "do not trust it" in error


@pytest.mark.parametrize("command", ["compress", "finetune", "evaluate", "export"])
def test_a_run_that_was_sent_builds_nothing_of_its_own(
    lwdc_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["gate._target_=trap.spring"]
    checkpoint(tmp_path / "sent", {"gate": {"_target_": "trap.spring"}, "overrides": overrides, "export": {}})
    code, _, error = lwdc_in(command, "resume=sent" if command == "compress" else "run=sent")
    assert code == 2 and "trap.spring" in error, error
    assert {"imported", "sprung"}.isdisjoint(os.listdir(tmp_path))
