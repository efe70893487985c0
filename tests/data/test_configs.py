"""Every file of the config group ``data`` names a data module and options that it takes."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lwdc.data import DataModule, Images

FOLDER = Path(__file__).parents[2] / "conf" / "data"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_config_builds_its_data_module(name: str) -> None:
    options = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    for other in options.pop("defaults", []):
        options = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{other}.yaml")) | options
    module, _, target = options.pop("_target_").rpartition(".")
    cls = getattr(importlib.import_module(module), target)
    data = cls(**options)
    assert isinstance(data, DataModule)
    if not isinstance(data, Images):  # which are named after their folder
        assert data.name == name
    unlisted = set(inspect.signature(cls).parameters) - set(options)
    assert unlisted <= {"mean", "std", "options"}, "options that the config should list"


def test_augmentations_are_set_on_the_command_line(lwdc_in: Callable[..., tuple[int, str, str]]) -> None:
    given = ("search", "data=webdataset", "data.augment.auto_augment=rand-m9-mstd0.5", "--cfg", "job")
    code, out, error = lwdc_in(*given)
    assert code == 0, error
    assert "auto_augment: rand-m9-mstd0.5" in out and "image_size: 224" in out
