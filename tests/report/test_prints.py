"""Figures for print: what they show without a slider or a button."""

from pathlib import Path

import pytest

from lwdc.records import Result
from lwdc.report import ReadRun, prints, read_runs


@pytest.fixture(scope="module")
def run(sweep: Path) -> ReadRun:
    (found,) = read_runs([sweep / "0"])
    return found


def result_of(run: ReadRun) -> Result:
    assert run.result is not None
    return run.result


def test_a_run_has_the_figures_of_its_page_and_a_sweep_its_front(run: ReadRun, sweep: Path) -> None:
    assert set(prints.of_runs([run])) == {"choices", "costs", "curves", "inheritance"}
    assert set(prints.of_runs(read_runs([sweep]))) == {"front"}


def test_what_has_no_figures_yet_gives_none(tmp_path: Path) -> None:
    assert prints.of_runs([ReadRun(tmp_path, "run", "unfinished", (), (), None)]) == {}
    assert prints.of_runs([ReadRun(tmp_path, name, "unfinished", (), (), None) for name in "ab"]) == {}


def test_the_choices_are_the_last_probabilities_and_dots_at_what_was_chosen(run: ReadRun) -> None:
    figure = prints.of_runs([run])["choices"]
    heat, dots = figure.data
    last = [epoch.search for epoch in run.epochs if epoch.search is not None][-1]
    for gate, row in zip(last.gates, heat.z, strict=True):
        assert dict(zip(heat.x, row, strict=True)) == {
            label: dict(zip(gate.candidates, gate.probabilities, strict=True)).get(label) for label in heat.x
        }
    assert list(zip(dots.y, dots.x, strict=True)) == [(site.site, site.operator) for site in result_of(run).sites]


def test_costs_show_every_kind_at_once(run: ReadRun) -> None:
    figure = prints.of_runs([run])["costs"]
    sites = result_of(run).sites
    assert [list(bars.x) for bars in figure.data] == [
        [getattr(site, f"{kind}_{when}") for site in sites]
        for kind in ("macs", "params", "ms")
        for when in ("before", "after")
    ]


def test_the_front_has_a_panel_for_every_cost(sweep: Path) -> None:
    figure = prints.of_runs(read_runs([sweep]))["front"]
    titles = [axis.title.text.split(",")[0] for axis in figure.select_xaxes() if axis.title.text]
    assert titles == ["MACs", "parameters", "bytes", "milliseconds"]
    points = [trace for trace in figure.data if trace.name == "runs"]
    assert [len(trace.x) for trace in points] == [2] * 4


def test_nothing_on_paper_slides_or_is_pressed(run: ReadRun, sweep: Path) -> None:
    for figure in (*prints.of_runs([run]).values(), *prints.of_runs(read_runs([sweep])).values()):
        assert not figure.layout.sliders and not figure.layout.updatemenus and not figure.frames
        assert all(trace.visible in (None, True) for trace in figure.data)


def test_a_network_of_more_sites_gets_a_longer_figure(run: ReadRun) -> None:
    sites = result_of(run).sites
    short, long = (prints.site_costs(sites * times).layout for times in (1, 10))
    assert short.width == long.width
    assert long.height - short.height >= 9 * len(sites) * 12  # the height of a name
