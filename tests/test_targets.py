"""Targets: what a configuration may have built, by where a thing is defined and not by how it is named."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lwdc.errors import LwdcError
from lwdc.targets import check_targets, targets

ROOT = Path(__file__).parents[1]

HOSTILE = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.os.system",
    "torch.utils.cpp_extension.load_inline",
    "torch.nn.functional.torch.hub.load",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.functools.reduce",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.inspect.sys.exit",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.Module.__class__",
    "torch.nn.Module.load_state_dict",
    "torch.optim.Optimizer.__reduce__",
    "torch.optim.optimizer.torch._dynamo.config.install_config_module",
    "torch.optim.swa_utils.itertools.starmap",
    "timm.create_model",
    "timm.optim.optim_factory.create_optimizer_v2.__globals__",
    "timm.models.load_checkpoint",
    "timm.scheduler.scheduler.torch.load",
    "hydra.utils.get_method",
    "hydra.utils.get_class",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "omegaconf.OmegaConf.load",
    "lwdc.cli.main",
    "lwdc.cli.os.system",
    "lwdc.files.write_text",
    "lwdc.save",
    "lwdc.data.wav.wave.open",
    "lwdc.data.image_folder.os.system",
    "lwdc.costs.timing.os.system",
    "lwdc.costs.from_file.Path.unlink",
    "lwdc.costs.measurements.Measurements.add",
    "lwdc.tracking.JsonlSink",
    "lwdc.tracking.wandb.wandb.init",
    "lwdc",
    "lwdc.data",
    ".os.system",
    "os..system",
    "${oc.env:HOME}",
    "lwdc.gates.Softmax ",
    "",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_what_could_run_anything_is_refused(target: str) -> None:
    with pytest.raises(LwdcError):
        check_targets({"gate": {"_target_": target, "_partial_": True}})


@pytest.mark.parametrize("target", [None, 3, True, ["os.system"], {"_target_": "os.system"}, b"os.system"])
def test_a_target_is_a_name(target: Any) -> None:
    with pytest.raises(LwdcError, match="_target_"):
        check_targets({"gate": {"_target_": target}})


@pytest.mark.parametrize(
    "config",
    [
        {"a": [{"b": ({"_target_": "os.system"},)}]},
        {"a": {"_target_": "lwdc.gates.Softmax", "_recursive_": False, "inner": {"_target_": "os.system"}}},
        {"a": {"_target_": "torch.optim.Adam", "_args_": [{"_target_": "os.system"}]}},
        [[{"_target_": "os.system"}]],
    ],
)
def test_it_is_found_wherever_it_stands(config: Any) -> None:
    with pytest.raises(LwdcError, match=r"names os\.system"):
        check_targets(config)


def test_text_that_would_be_resolved_later_is_refused() -> None:
    with pytest.raises(LwdcError, match="interpolation"):
        check_targets({"gate": {"x": "${oc.decode:'{_target_: os.system}'}"}})


def test_what_lwdc_ships_and_documents_is_allowed() -> None:
    found = [yaml.safe_load(file.read_text()) for file in (ROOT / "conf").glob("[!h]*/*.yaml")]
    assert len(list(targets(_without_interpolations(found)))) > 20
    check_targets(_without_interpolations(found))
    check_targets([{"_target_": t} for t in ("timm.optim.create_optimizer_v2", "timm.loss.LabelSmoothingCrossEntropy")])
    check_targets(
        [{"_target_": t} for t in ("timm.scheduler.CosineLRScheduler", "torch.nn.Linear", "torch.nn.init.zeros_")]
    )
    check_targets({"_target_": "optuna.samplers.TPESampler"}, allowed=("optuna.samplers",))


def _without_interpolations(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_interpolations(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_without_interpolations(value) for value in config]
    return config if not isinstance(config, str) or "${" not in config else ""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's own, which re-exports a class, and things of others."""
    folder = tmp_path / "mine_and_others"
    folder.mkdir()
    (folder / "__init__.py").write_text("from os import system\nfrom mine_and_others.data import MyData\n")
    (folder / "data.py").write_text("import subprocess\nclass MyData: pass\ndef _hidden(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.startswith("mine_and_others")]:
        monkeypatch.delitem(sys.modules, name)
    return "mine_and_others"


def test_what_is_not_trusted_is_not_even_imported(package: str) -> None:
    with pytest.raises(LwdcError, match=rf"trust={package}\.MyData$"):
        check_targets({"data": {"_target_": f"{package}.MyData"}})
    assert package not in sys.modules


@pytest.mark.parametrize("trusted", ["", ".data", ".data.MyData"])
def test_the_users_own_class_is_allowed_by_name_or_with_its_package(package: str, trusted: str) -> None:
    check_targets({"_target_": f"{package}.data.MyData"}, [package + trusted])


def test_a_trusted_package_does_not_lend_its_trust(package: str) -> None:
    for target in ("system", "data.subprocess.run", "data._hidden"):
        with pytest.raises(LwdcError):
            check_targets({"_target_": f"{package}.{target}"}, [package])
    check_targets({"_target_": f"{package}.MyData"}, [f"{package}.MyData"])  # re-exported, and named as it is written
    check_targets({"_target_": f"{package}.system"}, [f"{package}.system"])  # the user has said so


def test_a_name_that_leads_nowhere_is_said() -> None:
    with pytest.raises(LwdcError, match=r"gate\._target_: 'lwdc\.gates\.Softmx' cannot be found"):
        check_targets({"gate": {"_target_": "lwdc.gates.Softmx"}})


_ATTRIBUTES = [
    "torch",
    "os",
    "nn",
    "modules",
    "module",
    "functools",
    "partial",
    "sys",
    "Module",
    "__init__",
    "load",
    "hub",
]


@settings(max_examples=300)
@given(
    st.sampled_from(["torch.nn", "torch.optim", "lwdc.data", "lwdc.costs", "timm.optim"]),
    st.lists(st.one_of(st.sampled_from(_ATTRIBUTES), st.text("ab._1", min_size=1, max_size=4)), max_size=4),
)
def test_no_path_leads_out(start: str, path: list[str]) -> None:
    target = ".".join([start, *path])
    try:
        check_targets({"_target_": target})
    except LwdcError:
        return
    found = importlib.import_module(start)
    for part in path:
        found = getattr(found, part)
    assert found.__module__.startswith(("torch.nn", "torch.optim", "lwdc.", "timm."))
