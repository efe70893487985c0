"""What people see of a run, on a terminal and in a log."""

import dataclasses
import io

import pytest
from rich.console import Console

from lwdc.records import Note
from lwdc.tracking import ProgressSink, TerminalSink


def shown(records, **options) -> str:
    """What a sink prints for ``records``, with a step of progress before each epoch."""
    file = io.StringIO()
    sink = TerminalSink(Console(file=file, **options))
    for record in records:
        if hasattr(record, "epoch"):
            sink.progress(record.phase, record.epoch, record.epochs, 7, 20, 1.5)
        sink.write(record)
    sink.close()
    return file.getvalue()


def plain(records, **options) -> list[str]:
    return shown(records, width=80, **options).splitlines()


def line_with(lines: list[str], *words: str) -> str:
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def test_an_epoch_is_one_plain_line(records):
    lines = plain(records[:-1])
    assert line_with(lines, "baseline", "1/2").split() == [
        "baseline",
        "1/2",
        "2.000",
        *"60.0% 70.0% 4.0s 4.0s".split(),
    ]
    assert len(lines) == 2 + 6 + 3  # notes, epochs, a header for each phase


def test_a_search_shows_cost_bound_factor_and_decidedness(records):
    lines = plain(records[:-1])
    header, row = line_with(lines, "decided").split(), line_with(lines, "search", "1/2").split()
    assert dict(zip(header, row, strict=True)) == {
        "phase": "search",
        "epoch": "1/2",
        "loss": "2.000",
        "train": "60.0%",
        "valid": "70.0%",
        "cost": "80.0%",
        "bound": "78.0%",
        "factor": "0.500",
        "decided": "0.45",
        "time": "4.0s",
        "left": "4.0s",
    }


def test_the_time_left_is_that_of_the_epochs_to_come(records):
    first = dataclasses.replace(records[1], epochs=31, seconds=10.0)
    assert line_with(plain([first]), "1/31").split()[-1] == "5m00s"


def test_a_search_without_a_budget_has_no_bound(records):
    epoch = records[4]
    costs = tuple(dataclasses.replace(cost, bound=None) for cost in epoch.search.costs)
    free = dataclasses.replace(epoch, search=dataclasses.replace(epoch.search, costs=costs))
    assert line_with(plain([free]), "1/2").split()[6] == "-"


def test_plain_output_has_no_control_codes_and_no_broken_lines(records, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    note = Note("a " * 300 + "[bold]end[/bold]")
    text = shown([note, *records], width=80, force_terminal=False)
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert note.text in text.splitlines()
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_pipe_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    sink = TerminalSink()
    sink.progress("search", 1, 2, 3, 4, 0.5)
    sink.write(Note("x " * 300))
    sink.close()
    assert capsys.readouterr().out == "x " * 300 + "\n"


def test_warnings_are_marked():
    assert plain([Note("as it was"), Note("mind this", level="warning")]) == [
        "as it was",
        "warning: mind this",
    ]


def test_the_closing_tables_hold_every_site_in_one_line_each(result):
    lines = plain([result])
    for site in result.sites:
        line_with(lines, site.site, site.operator, f"{site.probability:.2f}")
    row = line_with(lines, "layer1.0.conv2").split()
    assert row == "layer1.0.conv2 grouped_4 0.92 147k 36.9k 2.30k 576 0.143 0.087".split()


def test_a_long_site_name_is_never_cut_in_plain_output(result):
    name = "features.denseblock1." * 6 + "conv2"
    sites = (dataclasses.replace(result.sites[0], site=name),)
    line_with(plain([dataclasses.replace(result, sites=sites)]), name, "original")


def test_an_operator_that_is_cheaper_but_slower_is_marked_and_explained(result):
    lines = plain([result])
    assert [line.split()[0] for line in lines if line.endswith(" *")] == ["layer3.0.conv1"]
    assert line_with(lines, "yet slower in PyTorch on this machine").startswith("* 1 of the operators:")
    fine = dataclasses.replace(result, sites=result.sites[:4])
    assert "slower" not in shown([fine], width=80)


def test_the_accuracies_of_the_four_networks_and_the_gap_are_shown(result):
    lines = plain([result])
    assert line_with(lines, "validation").split()[1:] == ["98.9%", "98.3%", "97.2%", "98.6%", "+1.1"]
    assert line_with(lines, "test ", "+1.1").split()[1:] == ["98.6%", "98.1%", "96.9%", "98.3%", "+1.1"]
    line_with(lines, "test accuracy -0.3 points against the baseline, at 32.5% of its MACs")
    lines = plain([dataclasses.replace(result, weights="baseline")])
    assert line_with(lines, "validation").split()[1:] == ["98.9%", "98.3%", "97.2%", "98.6%", "-"]


def test_the_totals_are_shown_with_their_ratios(result):
    lines = plain([result])
    assert line_with(lines, "MACs", "12.3M").split() == ["MACs", "12.3M", "4.01M", "32.5%"]
    assert line_with(lines, "params", "272k").split() == ["params", "272k", "98.8k", "36.2%"]
    assert line_with(lines, "bytes", "1.10M").split() == ["bytes", "1.10M", "412k", "37.4%"]
    assert line_with(lines, "ms, batch 1 ").split()[-3:] == ["1.23", "1.30", "105.4%"]
    assert line_with(lines, "ms, batch 64 ").split()[-3:] == ["23.4", "14.2", "60.6%"]
    assert line_with(lines, "ms, batch 64, ONNX Runtime").split()[-3:] == ["19.5", "11.7", "60.0%"]


def test_exports_the_folder_and_at_last_the_warnings_are_shown(result):
    lines = plain([result])
    assert line_with(lines, "model.onnx").split() == [
        "onnx",
        "model.onnx",
        "455k",
        "3.4e-06",
        "1.3e-04",
        "yes",
    ]
    assert lines[-2] == f"everything lies in {result.folder}"
    assert lines[-1].startswith("warning: ")
    assert "left original" in lines[-1]


def test_a_phase_that_did_not_run_is_a_dash(result):
    nothing = dataclasses.replace(result.test, finetuned=None, supernet=None)
    lines = plain([dataclasses.replace(result, test=nothing, exports=())])
    assert line_with(lines, "test ", "96.9%").split() == ["test", "98.6%", "-", "96.9%", "-", "-"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_lines_that_fit_it(records, width):
    file = io.StringIO()
    sink = TerminalSink(Console(file=file, width=width, force_terminal=True, color_system=None))
    for record in records:
        sink.write(record)
    paths = ("warning", "everything")  # these may be longer than any screen
    lines = [line for line in file.getvalue().splitlines() if not line.startswith(paths)]
    assert max(map(len, lines)) <= width


class Clock:
    """Twelve seconds more at every look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 12.0
        return self.now


def test_evaluations_have_lines_for_new_bests_tenths_and_failures(search_records):
    lines = plain(search_records, get_time=Clock())
    start = next(i for i, line in enumerate(lines) if "evaluation " in line and "accuracy" in line)
    assert lines[start].split() == "phase evaluation accuracy expected cost score best time left".split()
    told = [line.split()[1] for line in lines[start + 1 :] if line.startswith("search")]
    assert told == ["1/12", "2/12", "4/12", "6/12", "8/12", "10/12", "12/12"]  # every second; none twice
    assert line_with(lines, "6/12").split()[2:8] == ["71.0%", "70.5%", "44.0%", "0.9100", "0.9100", "2.0s"]
    assert line_with(lines, "10/12").split()[2:7] == ["-", "70.5%", "40.0%", "-", "0.9100"]
    assert line_with(lines, "1/12").split()[3] == "-"  # nothing was expected yet
    assert line_with(lines, "warning", "nan") == "warning: evaluation 5 failed: the loss is nan"
    assert lines[-1] == "warning: 2 of 12 evaluations failed"


def test_the_time_left_of_evaluations_goes_by_the_clock(search_records):
    # A look when the sink is made, one after the correlation, then one an evaluation: 12 s each.
    lines = plain([search_records[0], *search_records[1:3]], get_time=Clock())
    assert line_with(lines, " 1/12").split()[-2:] == ["2.0s", "2m12s"]
    assert line_with(lines, " 2/12").split()[-2:] == ["2.0s", "2m00s"]


def test_a_long_search_has_a_line_a_tenth(search_records):
    first = search_records[1]
    many = [dataclasses.replace(first, index=index, evaluations=1000) for index in range(1, 1001)]
    assert len(plain(many)) == 1 + 1 + 10


def test_evaluators_are_compared_in_a_small_table(search_records):
    lines = plain(search_records[:1])
    assert line_with(lines, "Rank correlation over 4 architectures")
    assert line_with(lines, "scratch", "0.70").split() == ["scratch", "0.70", "0.90", "1.00", "3m04s"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_a_search_on_lines_that_fit_it(search_records, width):
    file = io.StringIO()
    sink = TerminalSink(Console(file=file, width=width, force_terminal=True, color_system=None))
    for record in search_records[:5]:
        sink.write(record)
    sink.close()
    text = file.getvalue()
    assert "evaluations 4/12  best 0.8990" in text and " left" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    lines = [line for line in text.splitlines() if "\x1b" not in line]
    assert lines and max(map(len, lines)) <= width


def test_on_a_terminal_a_bar_follows_the_steps_and_goes_away(records):
    text = shown(records, width=100, force_terminal=True)
    assert "search 1/2  loss 1.50" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 3  # a bar a phase; the cursor comes back


def test_a_bar_that_is_cut_short_gives_the_cursor_back():
    file = io.StringIO()
    sink = TerminalSink(Console(file=file, width=80, force_terminal=True))
    sink.progress("search", 1, 9, 3, 20, None)
    sink.close()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_the_terminal_follows_steps():
    assert isinstance(TerminalSink(Console(file=io.StringIO())), ProgressSink)
