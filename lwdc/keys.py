"""Keys: what a composed configuration may say, as lwdc's own yaml files have it. Of kinds signatures tell."""

import functools
import importlib.resources
import re
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import OmegaConf

from lwdc.errors import LwdcError, unknown_name
from lwdc.help import config_groups

_WRITTEN = {"overrides", "hydra"}  # by lwdc and Hydra

# Mappings whose keys are names of others: arguments of timm and of networks, costs, patterns.
OPEN = (
    "backbone.options",
    "cost.also",
    "data.augment",
    "space.per_site",
    *(f"{phase}.{name}" for phase in ("train", "strategy", "finetune") for name in ("schedule", "mixup")),
)


def helpers_of(config: dict[str, Any]) -> set[str]:
    """What settings name by ``${...}``, with others that one may have beside lwdc's own, in plain data not resolved."""
    return set(re.findall(r"\$\{(?:[\w.]+:)?\.*(\w+)", str(config)))


def check_keys(config: dict[str, Any], helpers: Collection[str] = ()) -> None:
    """Raise ``LwdcError`` for a setting that nothing reads, with the nearest ones that something does.

    ``config`` is plain data, resolved or not; ``helpers`` are read by others. What the arguments of a ``_target_`` are
    is for that to say, and so it is for what stands below a setting, like those of ``backbone.options``.
    """
    known = known_keys()
    if unknown := [key for key in config if key not in known and key not in {*_WRITTEN, *helpers}]:
        raise LwdcError(unknown_name("setting", str(unknown[0]), known))
    for name, below in known.items():
        given = config.get(name)
        if below is None or name not in config or (name == "tracking" and given is None):
            continue
        if isinstance(given, str) and "${" in given:  # yet to be resolved
            continue
        if not isinstance(given, dict):
            raise LwdcError(f"{name} is a group of settings, like {name}.{sorted(below)[0]}=..., found {given!r:.200}.")
        if "_target_" not in given and "_target_" not in below:
            model = given.get("model")  # of a cost, which may have its arguments beside it
            for key in given:
                if key not in below and not (isinstance(model, dict) and key in model):
                    raise LwdcError(f"{name}.{key}: " + unknown_name("setting", str(key), below))


def unknown_setting(key: str, config: Any) -> LwdcError | None:
    """What is said of ``key``, like ``train.epoch``, with the nearest ones; None if ``config`` has it."""
    above, node = "", config
    for part in key.split("."):
        whole = f"{above}.{part}" if above else part
        if not isinstance(node, Mapping) or not node:
            return LwdcError(f"{key}: {above} has no settings below it.")
        if part not in node:
            known = {str(name) for name in node if not str(name).startswith("_")}
            known |= set() if above else {*config_groups()}
            said = ("" if above == "" else f"{whole}: ") + unknown_name("setting", part, known)
            if "_target_" in node and "Did you mean" not in said:
                said += f" If {node['_target_']} takes it as well: +{key}=..."
            return LwdcError(said)
        above, node = whole, node[part]
    return None


@functools.cache
def known_keys() -> dict[str, frozenset[str] | None]:
    """Every setting, and what there is below those that are groups, whatever is chosen."""
    root = importlib.resources.files("lwdc.conf")

    def read(path: str) -> dict[str, Any]:
        found = OmegaConf.to_container(OmegaConf.create(root.joinpath(path).read_text(encoding="utf-8")))
        assert isinstance(found, dict)
        return {str(key): value for key, value in found.items() if key not in ("defaults", "hydra")}

    own = read("config.yaml")
    known = {key: frozenset(map(str, value)) if isinstance(value, dict) else None for key, value in own.items()}
    for group, choices in config_groups().items():
        if group != "experiment":
            known[group] = frozenset(key for choice in choices for key in read(f"{group}/{choice}.yaml"))
    return known
