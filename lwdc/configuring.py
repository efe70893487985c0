"""Configuring: the objects that a composed configuration describes."""

import functools
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lwdc.errors import LwdcError, unknown_name
from lwdc.help import config_groups
from lwdc.pipeline import BackboneSettings, Compute, CostSettings, FrontSettings, ScoreSettings, Settings
from lwdc.resolvers import register_resolvers
from lwdc.targets import check_targets
from lwdc.training import Recipe

register_resolvers()  # for whoever composes the configs, too


def make_settings(config: DictConfig, trusted: Sequence[str] = ()) -> Settings:
    """The objects that a configuration describes. What it may have built is said by ``check_targets``."""
    resolved = plain(config)
    check_targets(resolved, trusted)
    config = OmegaConf.create(resolved)  # once and for all: what is built is what was checked
    return Settings(
        backbone=_checked(BackboneSettings, "backbone", **plain(config.backbone)),
        data=build(config.data, "data"),
        cost=_cost(config.cost, "cost"),
        train=_recipe(config, "train"),
        search=_recipe(config, "strategy"),
        finetune=_recipe(config, "finetune"),
        **_gradients(config.strategy),
        front=_front(config.strategy),
        scores=_scores(config.strategy),
        space=build(config.space, "space"),
        gate=build(config.gate, "gate"),
        mixing=config.strategy.mixing,
        inherit=config.strategy.inherit,
        beginning=config.strategy.get("beginning", False),  # not in runs of earlier versions
        from_scratch=config.finetune.from_scratch,
        recalibrate_batches=config.strategy.recalibrate_batches,
        refit_images=config.strategy.refit_images,
        weights=config.strategy.get("weights", "better"),  # not in runs of earlier versions
        compute=_checked(Compute, "compute", **plain(config.compute)),
        formats=list(config.export.formats),
        int8=config.export.int8,
        licence=config.export.licence,
        latency_batches=list(config.latency_batches),
        seed=config.seed,
        deterministic=config.deterministic,
        baseline=None if config.baseline is None else Path(str(config.baseline)),
        searched=None if config.searched is None else Path(str(config.searched)),
        checkpoint_minutes=config.checkpoint.every_minutes,
    )  # fmt: skip


def _cost(node: DictConfig, key: str) -> CostSettings:
    """A cost, with those beside it. What its model takes may stand beside the model, as ``cost.runtime`` does."""
    also = []
    for name, given in (node.get("also") or {}).items():
        known = config_groups()["cost"]
        if name not in known:
            raise LwdcError(f"{key}.also: " + unknown_name("cost", str(name), known))
        if not isinstance(given, DictConfig) or "also" in given:
            raise LwdcError(
                f"{key}.also.{name} takes the settings of one cost, like +cost.also.{name}.budget=50%; found {given}."
            )
        folder = importlib.resources.files("lwdc.conf") / "cost"
        composed = OmegaConf.merge(
            *(OmegaConf.create((folder / f"{n}.yaml").read_text()) for n in ("macs", name)), given
        )
        assert isinstance(composed, DictConfig)
        composed.pop("defaults", None)
        also.append(_cost(composed, f"{key}.also.{name}"))
    rest = {k: v for k, v in plain(node).items() if k not in ("model", "shape", "also") and k not in node.model}
    return _checked(
        CostSettings, key, model=build(node.model, f"{key}.model"), shape=build(node.shape, f"{key}.shape"),
        also=tuple(also), **rest,
    )  # fmt: skip


def _gradients(strategy: DictConfig) -> dict[str, Any]:
    """What a search by gradients alone has."""
    if "proposer" in strategy:
        return {}
    plain = {name: strategy[name] for name in ("prior", "decide", "decide_from")}
    rest_from = strategy.get("rest_from", 1.0)  # runs of earlier versions have none
    return {"logits_optim": build(strategy.logits_optim, "strategy.logits_optim"), "rest_from": rest_from, **plain}


def _scores(strategy: DictConfig) -> ScoreSettings | None:
    if "proposer" not in strategy:
        return None
    nodes = strategy.evaluators.items()
    evaluators = {str(name): build(node, f"strategy.evaluators.{name}") for name, node in nodes}
    return _checked(
        ScoreSettings, "strategy", evaluators=evaluators,
        **{name: build(strategy[name], f"strategy.{name}") for name in ("proposer", "score")},
        **{name: strategy[name] for name in ("evaluator", "evaluations", "batch", "jobs", "correlate")},
    )  # fmt: skip


def _front(strategy: DictConfig) -> FrontSettings | None:
    if strategy.get("front") is None:
        return None
    return _checked(FrontSettings, "strategy.front", **plain(strategy.front))


def _recipe(config: DictConfig, group: str) -> Recipe:
    node = config[group]
    return _checked(
        Recipe, group, epochs=node.epochs, batch_size=node.batch_size,
        optim=functools.partial(build(config.optim, "optim"), lr=node.lr),
        schedule=build(node.lr_scheduler, f"{group}.lr_scheduler") if node.lr_scheduler else plain(node.schedule),
        objective=build(node.objective, f"{group}.objective"),
        clip_norm=node.clip_norm,
        # Not in runs of earlier versions, which are evaluated and exported again.
        accumulate=node.get("accumulate", 1), ema=node.get("ema"), mixup=dict(node.get("mixup") or {}),
        nonfinite=node.get("nonfinite", "stop"),
        **({"starts_optim": build(node.starts_optim, f"{group}.starts_optim")} if "starts_optim" in node else {}),
    )  # fmt: skip


def build(node: Any, key: str) -> Any:
    """The object that a ``_target_`` names. Its own errors pass; others say which key is at fault."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        given = plain(node) if isinstance(node, DictConfig) else node
        raise LwdcError(f"{key}={given!r} names nothing to build: leave it out, or give {key}._target_.")
    try:
        return instantiate(plain(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, LwdcError):
            cause = cause.__cause__
        raise cause or LwdcError(f"{key}: {str(error).splitlines()[0]}") from error


def _checked(kind: type, key: str, **arguments: Any) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise LwdcError(f"{key}: {error}") from error


def plain(node: Any) -> Any:
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise LwdcError(f"the configuration cannot be resolved: {error}") from error
