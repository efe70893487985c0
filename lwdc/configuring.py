"""Configuring: the objects that a composed configuration describes."""

import dataclasses
import functools
import importlib.resources
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lwdc.errors import LwdcError, unknown_name
from lwdc.keys import check_keys, helpers_of
from lwdc.kinds import check_kind, check_kinds, taken_by
from lwdc.pipeline import BackboneSettings, Compute, CostSettings, FrontSettings, ScoreSettings, Settings
from lwdc.resolvers import register_resolvers
from lwdc.targets import check_targets, import_trusted
from lwdc.training import Recipe

register_resolvers()  # for whoever composes the configs, too


def make_settings(config: DictConfig, trusted: Sequence[str] = ()) -> Settings:
    """The objects that a configuration describes. What it may have built is said by ``check_targets``.

    What is trusted by name is imported first: its operators and networks are known from then on.
    """
    given = OmegaConf.to_container(config)
    assert isinstance(given, dict)
    if missing := _missing(given):
        raise LwdcError(f"{missing[0]} has to be given, as {missing[0]}=...")
    resolved = plain(config)
    check_keys(resolved, helpers_of({str(key): value for key, value in given.items()}))
    if isinstance(resolved["cost"], dict) and resolved["cost"].get("also"):
        resolved["cost"]["also"] = _whole(resolved["cost"]["also"])
    import_trusted(trusted)
    check_targets(resolved, trusted)
    config = OmegaConf.create(resolved)  # once and for all: what is built is what was checked
    try:
        return _settings(config, resolved)
    except (KeyError, ConfigAttributeError) as error:  # deleted, as by ~train.lr
        raise LwdcError(
            f"the configuration lacks a setting that has to be there: {str(error).splitlines()[0]}."
        ) from error


def _settings(config: DictConfig, resolved: dict[str, Any]) -> Settings:
    return _checked(
        Settings, _OWN,
        backbone=_checked(BackboneSettings, "backbone", **plain(config.backbone)),
        data=build(config.data, "data"),
        cost=_cost(config.cost, "cost"),
        train=_recipe(config, "train"),
        search=_recipe(config, "strategy"),
        finetune=_recipe(config, "finetune"),
        logits_optim=None if "proposer" in config.strategy
        else build(config.strategy.logits_optim, "strategy.logits_optim"),
        front=_front(config.strategy),
        scores=_scores(config.strategy),
        space=build(config.space, "space"),
        gate=build(config.gate, "gate"),
        compute=_checked(Compute, "compute", **plain(config.compute)),
        **_EARLIER | _own(resolved),
    )  # fmt: skip


# What stands in the configuration as it is: argument of ``Settings`` -> key.
_OWN = {
    "prior": "strategy.prior",
    "decide": "strategy.decide",
    "decide_from": "strategy.decide_from",
    "rest_from": "strategy.rest_from",
    "mixing": "strategy.mixing",
    "inherit": "strategy.inherit",
    "beginning": "strategy.beginning",
    "recalibrate_batches": "strategy.recalibrate_batches",
    "refit_images": "strategy.refit_images",
    "weights": "strategy.weights",
    "from_scratch": "finetune.from_scratch",
    "formats": "export.formats",
    "int8": "export.int8",
    "licence": "export.licence",
    "checkpoint_minutes": "checkpoint.every_minutes",
    **{name: name for name in ("latency_batches", "seed", "deterministic", "baseline", "searched")},
}
_EARLIER = {"beginning": False, "rest_from": 1.0, "weights": "better"}  # in runs of versions that had no such settings
_YOUNG = {*_EARLIER, "refit_images", "prior", "decide", "decide_from"}  # which runs of earlier versions may lack


def _missing(config: Any, key: str = "") -> list[str]:
    if isinstance(config, dict):
        return [found for name, value in config.items() for found in _missing(value, f"{key}.{name}" if key else name)]
    return [key] if config == "???" else []


def _own(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Settings`` that stand in the configuration as they are, those that it has."""
    found: dict[str, Any] = {}
    for name, key in _OWN.items():
        group, _, last = key.rpartition(".")
        if last in (node := config[group] if group else config):
            value = node[last]
            found[name] = Path(value) if name in ("baseline", "searched") and isinstance(value, str) else value
        elif name not in _YOUNG and not (key.startswith("strategy.") and "proposer" in node):
            raise KeyError(key)
    return found


def _cost(node: DictConfig, key: str) -> CostSettings:
    """A cost, with those beside it. What its model takes may stand beside the model, as ``cost.runtime`` does."""
    for name in ("model", "shape"):
        _check_target(node.get(name), f"{key}.{name}")
    also = [_cost(beside, f"{key}.also.{name}") for name, beside in (node.get("also") or {}).items()]
    rest = {k: v for k, v in plain(node).items() if k not in ("model", "shape", "also") and k not in node.model}
    return _checked(
        CostSettings, key, model=build(node.model, f"{key}.model"), shape=build(node.shape, f"{key}.shape"),
        also=tuple(also), **rest,
    )  # fmt: skip


def _whole(also: Any) -> dict[str, Any]:
    """Costs beside another: what the yaml of that name says, then what is given. Those without one name a model."""
    files, found = _cost_files(), {}
    for name, given in check_kind(also, Mapping[str, Any], "cost.also").items():
        key = f"cost.also.{name}"
        if not isinstance(given, dict) or "also" in given:
            raise LwdcError(f"{key} takes the settings of one cost, like {key}.budget=50%; found {given}.")
        if name not in files and "model" not in given:
            raise LwdcError(
                f"cost.also: {unknown_name('cost', str(name), files)} One of your own has its yaml in a folder that "
                f"--config-dir names, or {key}.model._target_=my_package.MyCost."
            )
        whole = OmegaConf.merge(_read_cost(name if name in files else "macs", files), given)
        assert isinstance(whole, DictConfig)
        whole.pop("also", None)
        if missing := _missing(OmegaConf.to_container(whole), key):
            raise LwdcError(f"{missing[0]} has to be given, as {missing[0]}=...")
        found[str(name)] = plain(whole)
    return found


def _read_cost(name: str, files: Mapping[str, Traversable], within: Sequence[str] = ()) -> DictConfig:
    """What the yaml of a cost says, on top of those that its ``defaults`` name."""
    try:
        own = OmegaConf.create(files[name].read_text(encoding="utf-8"))
        assert isinstance(own, DictConfig)
        below = [str(other) for other in own.pop("defaults", []) if other != "_self_"]
        if wrong := [other for other in below if other not in files or other in (*within, name)]:
            raise LwdcError(f"{files[name]}: its defaults can name other costs of that group, found {wrong[0]!r}.")
    except (OSError, ValueError, AssertionError, OmegaConfBaseException, YAMLError) as error:
        if isinstance(error, LwdcError):
            raise
        raise LwdcError(f"{files[name]} cannot be read as a cost: {' '.join(str(error).split())}") from error
    found = OmegaConf.merge(*(_read_cost(other, files, (*within, name)) for other in below), own)
    assert isinstance(found, DictConfig)
    return found


def _cost_files() -> dict[str, Traversable]:
    """The yaml file of each cost: lwdc's own, then those in the folders that the command line names."""
    folders: list[Traversable] = [importlib.resources.files("lwdc.conf")]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [Path(source.path) for source in sources if source.schema == "file"]
    found: dict[str, Traversable] = {}
    for folder in folders:
        files = (folder / "cost").iterdir() if (folder / "cost").is_dir() else ()
        found = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")} | found
    return found


_BY_GRADIENTS = {"logits_optim", "prior", "decide", "decide_from", "rest_from", "front"}


def _scores(strategy: DictConfig) -> ScoreSettings | None:
    others = _BY_GRADIENTS if "proposer" in strategy else {field.name for field in dataclasses.fields(ScoreSettings)}
    if idle := sorted(others & {str(name) for name in strategy}):
        kind = "gradients, like strategy=joint" if "proposer" in strategy else "scores, like strategy=random"
        raise LwdcError(f"strategy.{idle[0]} is a setting of searches by {kind}: leave it out, or choose such a one.")
    if "proposer" not in strategy:
        return None
    nodes = check_kind(strategy.evaluators, Mapping[str, Any], "strategy.evaluators").items()
    evaluators = {str(name): build(node, f"strategy.evaluators.{name}") for name, node in nodes}
    return _checked(
        ScoreSettings, "strategy", evaluators=evaluators,
        **{name: build(strategy[name], f"strategy.{name}") for name in ("proposer", "score")},
        **{name: strategy[name] for name in ("evaluator", "evaluations", "batch", "jobs", "correlate")},
    )  # fmt: skip


def _front(strategy: DictConfig) -> FrontSettings | None:
    if strategy.get("front") is None:
        return None
    front = check_kind(strategy.front, Mapping[str, Any] | None, "strategy.front")
    return _checked(FrontSettings, "strategy.front", **plain(front))


def _recipe(config: DictConfig, group: str) -> Recipe:
    node = plain(config[group])
    given = {field.name: node[field.name] for field in dataclasses.fields(Recipe) if field.name in node}
    if given.get("mixup", {}) is None:
        del given["mixup"]
    if node.get("lr_scheduler"):
        given["schedule"] = build(config[group].lr_scheduler, f"{group}.lr_scheduler")
    for name in {"objective", "starts_optim"} & set(given):
        given[name] = build(config[group][name], f"{group}.{name}")
    if "lr" not in node:
        raise KeyError(f"{group}.lr")
    rate = check_kind(node["lr"], float, f"{group}.lr")
    return _checked(Recipe, group, **given, optim=functools.partial(build(config.optim, "optim"), lr=rate))


def build(node: Any, key: str) -> Any:
    """The object that a ``_target_`` names. Its own errors pass; others say which key is at fault."""
    _check_target(node, key)
    given = plain(node)
    try:
        for below, built in _built(given):
            _check_taken(built, f"{key}{below}")
        given = check_kinds(get_method(given["_target_"]), given, lambda name: f"{key}.{name}")
        return instantiate(given, _convert_="all")
    except InstantiationException as error:
        raise _reason(error, given, key) from error


def _reason(error: InstantiationException, given: Any, key: str) -> BaseException:
    """Why what ``given`` describes cannot be built: lwdc's own error if there is one, else what was raised."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    if own := [cause for cause in causes if isinstance(cause, LwdcError)]:
        return own[0]
    raised = next((cause for cause in causes if not isinstance(cause, InstantiationException)), error)
    below = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
    signs = str.maketrans("", "", ".[]")  # which Hydra leaves out at lists
    names = [name for name, _ in _built(given) if below and name.translate(signs) == below[1].translate(signs)]
    said = str(raised) if isinstance(raised, TypeError | ValueError | InstantiationException) else repr(raised)
    return LwdcError(f"{key}{names[0] if names else ''}: {' '.join(said.split())}")


def _built(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """What plain data would have built, each by its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from _built(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _built(value, f"{key}[{index}]")


def _check_taken(node: Mapping[str, Any], key: str) -> None:
    """Raises ``LwdcError`` for an argument that what is to be built does not take."""
    known, takes_others = taken_by(get_method(node["_target_"]))
    unknown = [name for name in node if not name.startswith("_") and name not in known]
    if unknown and not takes_others:
        raise LwdcError(f"{key}.{unknown[0]}: " + unknown_name("setting", unknown[0], known))


def _check_target(node: Any, key: str) -> None:
    """Raises ``LwdcError`` unless ``node`` names what is to be built."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        given = plain(node) if isinstance(node, DictConfig) else node
        raise LwdcError(f"{key}={given!r} names nothing to build: leave it out, or give {key}._target_.")


def _checked(kind: type, key: str | Mapping[str, str], **arguments: Any) -> Any:
    """``kind(**arguments)``, which stand below ``key``, or each where ``key`` says."""
    keys = {name: f"{key}.{name}" for name in arguments} if isinstance(key, str) else key
    takes = inspect.signature(kind).parameters
    if unknown := [name for name in arguments if name not in takes]:
        raise LwdcError(f"{keys[unknown[0]]}: " + unknown_name("setting", unknown[0], takes))
    arguments |= check_kinds(kind, {name: arguments[name] for name in keys if name in arguments}, keys.__getitem__)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise LwdcError(f"{key if isinstance(key, str) else 'the configuration'}: {error}") from error


def plain(node: Any) -> Any:
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise LwdcError(f"the configuration cannot be resolved: {error}") from error
