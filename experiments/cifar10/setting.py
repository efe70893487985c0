"""A setting: which network, how small, by which schedule; and the configuration that all contenders share."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lwdc.backbones import Backbone
from lwdc.configuring import make_settings
from lwdc.counting import count_macs
from lwdc.errors import LwdcError
from lwdc.pipeline import Settings

NETWORKS = {"resnet20": "cifar_resnet20", "resnet56": "cifar_resnet56", "vgg16_bn": "cifar_vgg16_bn"}
POINTS = (2.1, 4.0, 1.5, 2.6, 8.0)  # times fewer MACs, in the order of work
SEEDS = (0, 1, 2)
INPUT_SIZE = (3, 32, 32)

# What the published weights of the ResNets were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Where a run is made, not what: a run may go on elsewhere.
NOT_COMPARED = (
    "data.root",
    "data.download",
    "backbone.weights",
    "compute.accelerator",
    "compute.threads",
    "checkpoint",
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What contenders have in common. ``changes`` are settings of ``lwdc compress`` for all of them, sorted."""

    network: str
    epochs: int  # of training in all, search included
    search: int  # of them, for contenders with a search or a sparse phase
    distil: bool = True
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.search < self.epochs:
            raise LwdcError(
                f"of {self.epochs} epochs {self.search} cannot be the search's; both parts need one or more."
            )

    def facts(self) -> dict[str, Any]:
        """Json-ready."""
        return {**dataclasses.asdict(self), "changes": list(self.changes)}

    def compared(self) -> "Setting":
        """The same without what only says how it is computed (``compute.*``): one table holds runs of either."""
        changes = tuple(change for change in self.changes if not change.startswith("compute."))
        return dataclasses.replace(self, changes=changes)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run: a contender in a setting, at one point, from one seed."""

    setting: Setting
    contender: str
    point: float
    seed: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Entry":
        """The entry that a record is of."""
        facts = record["setting"]
        setting = Setting(**{**facts, "changes": tuple(facts["changes"])})
        return cls(setting, record["contender"], record["point"], record["seed"])

    @property
    def name(self) -> str:
        """Of the run's folder."""
        setting = self.setting
        parts = [setting.network, f"{self.point:g}x", self.contender, f"{setting.search}of{setting.epochs}"]
        if not setting.distil:
            parts.append("labels")
        if setting.changes:
            parts.append(hashlib.blake2b(repr(setting.changes).encode(), digest_size=3).hexdigest())
        return "-".join([*parts, f"seed{self.seed}"])

    def bound(self) -> int:
        """The most MACs that the final network may have."""
        original = Backbone(NETWORKS[self.setting.network], 10, INPUT_SIZE[0]).create()
        return int(count_macs(original, [INPUT_SIZE]) / self.point)

    def compared(self) -> "Entry":
        """The same of ``Setting.compared``."""
        return dataclasses.replace(self, setting=self.setting.compared())

    def configure(self, data: Path, weights: Path, threads: int | None) -> tuple[Settings, dict[str, Any]]:
        """What ``lwdc compress`` makes of the entry's settings: as objects, and as plain data."""
        setting = self.setting
        overrides = [
            "experiment=cifar10_resnet20",
            f"backbone={NETWORKS[setting.network]}",
            f"backbone.weights={_quoted(weights)}",
            f"data.root={_quoted(data)}",
            f"data.mean={list(MEAN)}",
            f"data.std={list(STD)}",
            f"cost.budget={self.bound()}MAC",
            "train.epochs=0",
            f"strategy.epochs={setting.search}",
            f"finetune.epochs={setting.epochs - setting.search}",
            f"seed={self.seed}",
            f"compute.threads={'null' if threads is None else threads}",
            *([] if setting.distil else ["strategy.objective.weight=0", "finetune.objective.weight=0"]),
            *setting.changes,
        ]
        try:
            with initialize_config_module("lwdc.conf", version_base="1.3"):
                config = compose("config", overrides)
        except HydraException as error:
            raise LwdcError(f"the settings cannot be used: {str(error).splitlines()[0]}") from error
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        return make_settings(config), {str(key): value for key, value in plain.items()}


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"
