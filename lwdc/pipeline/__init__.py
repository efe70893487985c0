"""The pipeline: one run from a network to a verified, smaller one."""

from lwdc.errors import Interrupted
from lwdc.folders import check_folder
from lwdc.pipeline.compress import PHASES, compress
from lwdc.pipeline.compute import Compute
from lwdc.pipeline.prepare import Prepared, prepare
from lwdc.pipeline.run import Run, compare_configs
from lwdc.pipeline.settings import BackboneSettings, CostSettings, FrontSettings, ScoreSettings, Settings

__all__ = [
    "PHASES",
    "BackboneSettings",
    "Compute",
    "CostSettings",
    "FrontSettings",
    "Interrupted",
    "Prepared",
    "Run",
    "ScoreSettings",
    "Settings",
    "check_folder",
    "compare_configs",
    "compress",
    "prepare",
]
