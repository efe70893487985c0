"""Every file of the config group ``backbone`` names a network that can be built."""

from pathlib import Path

import pytest
import timm
from omegaconf import OmegaConf

from lwdc.backbones import Backbone

FOLDER = Path(__file__).parents[2] / "conf" / "backbone"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_config_names_a_network(name: str) -> None:
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    assert set(config) - {"reparameterise"} == {"name", "options", "pretrained", "weights"}
    if name == "timm":
        assert OmegaConf.is_missing(config, "name")
        return
    assert config.name == name and timm.is_model(name)
    Backbone(config.name, 10, 3, OmegaConf.to_container(config.options)).check_name()
