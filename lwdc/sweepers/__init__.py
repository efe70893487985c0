"""Sweepers: what proposes the runs of a sweep, and learns what became of them in whatever process they ran."""

from hydra.core.plugins import Plugins

from lwdc.sweepers.grid import GridSweeper
from lwdc.sweepers.trials import OptunaSweeper

__all__ = ["GridSweeper", "OptunaSweeper", "register"]


def register() -> None:
    """Make the sweepers known to Hydra, which takes a plug-in only by a name in the package ``hydra_plugins``.

    Their classes keep their own names, by which processes of launchers import them.
    """
    for sweeper in (GridSweeper, OptunaSweeper):
        Plugins.instance().class_name_to_class[f"hydra_plugins.lwdc.{sweeper.__name__}"] = sweeper
