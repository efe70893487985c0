"""Every file of the config group ``export`` names formats that can be written."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lwdc.export import FORMATS

FOLDER = Path(__file__).parents[2] / "conf" / "export"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_config_names_formats(name: str) -> None:
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    assert set(config) == {"formats", "int8", "licence"}
    assert set(config.formats) <= set(FORMATS)


def test_the_default_is_every_format() -> None:
    assert list(OmegaConf.load(FOLDER / "default.yaml").formats) == list(FORMATS)
