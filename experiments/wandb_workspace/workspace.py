"""A W&B workspace for sweeps of lwdc: accuracy against cost, settings against outcomes, curves. README.md says how."""

import argparse
import sys
from collections.abc import Sequence

import requests
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

ACCURACY = "test/finetuned"
COSTS = {
    "MACs, share of the original": "share/macs",
    "parameters, share of the original": "share/params",
    "bytes, share of the original": "share/bytes",
    "milliseconds, batch 1": "after/ms_batch_1",
}
OUTCOMES = ("share/macs", "after/ms_batch_1", "test/discretisation_gap", ACCURACY)
SETTINGS = ("cost.budget", "strategy.epochs", "seed")
STEP = "step"
CURVES = {
    "search: cost under the gates, and its bound": ("search/expected_cost", "search/bound"),
    "search: how far the gates have decided": ("search/decided",),
    "validation accuracy": ("baseline/valid_accuracy", "search/valid_accuracy", "finetune/valid_accuracy"),
}


def workspace(entity: str, project: str, settings: Sequence[str] = SETTINGS) -> ws.Workspace:
    """The workspace as data; nothing is sent. ``settings`` are the axes that say what was asked of a run."""
    fronts = [
        # The running maximum over a rising cost is the front.
        wr.ScatterPlot(
            title=title, x=wr.SummaryMetric(key), y=wr.SummaryMetric(ACCURACY), running_ymax=True, running_ymin=False,
            running_ymean=False,
        )
        for title, key in COSTS.items()
    ]  # fmt: skip
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key) for key in settings]
    axes += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), display_name=key) for key in OUTCOMES]
    parallel = wr.ParallelCoordinatesPlot(
        title="what was asked, and what came of it", columns=axes, layout=wr.Layout(w=24, h=10)
    )
    curves = [wr.LinePlot(title=title, x=STEP, y=list(keys)) for title, keys in CURVES.items()]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="lwdc: accuracy against cost",
        sections=[
            ws.Section(name="Accuracy against cost", panels=fronts, is_open=True),
            ws.Section(name="Settings and outcomes", panels=[parallel], is_open=True),
            ws.Section(name="Curves", panels=curves, is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        auto_generate_panels=True,  # so that the charts of every site stand below
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", metavar="ENTITY/PROJECT", help="as in the address of the project's page")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="keys of the configuration, by commas")
    parser.add_argument("--print", action="store_true", help="print the workspace as JSON; needs no account")
    given = parser.parse_args()
    entity, _, project = given.place.partition("/")
    if not entity or not project or "/" in project:
        parser.error(f"{given.place!r} is not of the form ENTITY/PROJECT, like me/lwdc")
    made = workspace(entity, project, given.settings.split(","))
    if given.print:
        print(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))
        return
    try:
        made.save()
    except (wandb.Error, requests.RequestException) as error:
        sys.exit(f"error: W&B did not take the workspace ({error}); log in with `wandb login`.")


if __name__ == "__main__":
    main()
