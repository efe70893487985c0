"""Packaging: what a wheel and an editable install of lwdc hold."""

import configparser
import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONFIGS = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}


def test_setup_cfg_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = {path.parent for path in (ROOT / "lwdc").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(setup["options"]["packages"].split()) == found | {"lwdc.conf"}


def test_the_oldest_versions_that_are_tested_are_those_that_setup_cfg_allows() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = [setup["options"]["install_requires"], *(setup["options.extras_require"][e] for e in ("sweeps", "test"))]
    needs = [Requirement(line) for text in listed for line in text.splitlines() if line.strip()]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = {pin.name: pin.specifier for pin in map(Requirement, (line for line in lines if not line.startswith("#")))}
    assert set(pins) == {need.name for need in needs}
    for need in needs:
        (bound,), (pin,) = need.specifier, pins[need.name]
        assert (bound.operator, pin.operator) == (">=", "=="), need
        assert Version(bound.version) == Version(".".join(pin.version.split(".")[: len(bound.version.split("."))])), (
            need
        )


def test_the_configs_are_found_inside_the_package() -> None:
    folder = importlib.resources.files("lwdc.conf")
    assert folder.joinpath("config.yaml").is_file()
    assert all(folder.joinpath(name).is_file() for name in CONFIGS)


def test_a_wheel_holds_modules_configs_and_the_command(tmp_path: Path) -> None:
    # Built from a copy: a build/ folder left in the checkout would end up in the wheel.
    for folder in ("lwdc", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / "source" / folder)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path / "source")
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", *build, str(tmp_path / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("lwdc-*.whl")
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        (commands,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "lwdc = lwdc.cli:main" in wheel.read(commands).decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lwdc").rglob("*.py")}
    configs = {f"lwdc/conf/{name}" for name in CONFIGS}
    assert modules | configs | {"lwdc/py.typed"} <= names
    assert not {name for name in names if name.startswith(("conf/", "tests/"))}
