"""The grid: every combination of the values given, as Hydra's own sweeper has it, with an account of failures."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lwdc.sweepers.jobs import WatchedLauncher, answers, refuse_failures


class GridSweeper(Sweeper):
    """Raises ``Refused`` at the end if runs failed, in whatever process. Settings are those of Hydra's ``basic``."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None) -> None:
        # Here, because Hydra runs this module anew when it looks for plug-ins, which makes another class of it.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        self._grid = BasicSweeper(max_batch_size, params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._grid.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self._grid.launcher is not None
        self._grid.launcher = WatchedLauncher(self._grid.launcher, config)

    def sweep(self, arguments: list[str]) -> Any:
        batches = self._grid.sweep(arguments)
        refuse_failures([row for jobs in batches for row in answers(jobs)])
        return batches
