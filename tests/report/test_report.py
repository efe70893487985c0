"""Pages about runs and sweeps: what they hold, and that a browser shows them without asking anyone."""

import csv
import dataclasses
import html
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lwdc import cli
from lwdc.errors import CheckpointError, LwdcError
from lwdc.records import CorrelationRecord, EmbeddingRecord, EvaluationRecord, Note, Result
from lwdc.report import figures, read_runs, write_report
from lwdc.tracking import read_records


def written(folder: Path, out: Path) -> str:
    write_report(read_runs([folder]), out)
    return out.read_text()


def test_a_runs_page_says_what_became_of_it(sweep: Path, tmp_path: Path) -> None:
    (run,) = read_runs([sweep / "0"])
    assert run.result is not None and run.status == "done"
    text = written(sweep / "0", tmp_path / "page.html")
    assert "cifar_resnet8 on digits" in text
    assert f"{100 * run.result.after.macs / run.result.before.macs:.1f}%" in text
    for note in run.notes:
        assert note.text.split(";")[0][:30] in text
    for site in run.result.sites:
        assert f"{site.site}: {site.operator}" in text
    assert set(re.findall(r'<div id="(\w+)" class="plotly-graph-div"', text)) == {
        "choices", "costs", "curves", "inheritance",
    }  # fmt: skip


def test_a_sweep_shows_every_run_by_what_tells_it_from_the_others(sweep: Path, tmp_path: Path) -> None:
    runs = read_runs([sweep])
    assert sorted(run.name for run in runs) == ["cost.budget=0.001", "cost.budget=0.6", "cost.budget=0.8"]
    by_name = {run.name: run for run in runs}
    assert "cannot be reached" in by_name["cost.budget=0.001"].status
    text = written(sweep, tmp_path / "page.html")
    assert 'id="front"' in text and "failed: budget" in text
    data = json.loads(text.split('id="runs">')[1].split("</script>")[0])
    assert {entry["name"]: len(entry["sites"]) for entry in data} == {
        "cost.budget=0.001": 0, "cost.budget=0.6": 6, "cost.budget=0.8": 6,
    }  # fmt: skip


def test_an_unfinished_run_is_shown_as_such(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    lines = (folder / "1" / "records.jsonl").read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if '"phase": "search"' in line)
    (folder / "1" / "records.jsonl").write_text("".join(lines[: last + 1]))
    shutil.copytree(folder / "1", folder / "7")  # killed before it had a row
    stands = {run.folder.name: run.status for run in read_runs([folder])}
    assert stands["1"] == stands["7"] == "unfinished: search, epoch 1 of 2"
    text = written(folder / "1", tmp_path / "page.html")
    assert "unfinished: search, epoch 1 of 2" in text and 'id="choices"' in text
    (folder / "0" / "records.jsonl").write_text("")
    (empty,) = read_runs([folder / "0"])
    assert empty.status == "unfinished: no epoch yet"
    assert empty.status in written(folder / "0", tmp_path / "page.html")


def test_a_search_that_was_killed_is_shown_as_far_as_it_came(searched: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(searched, tmp_path / "run")
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    third = next(i for i, line in enumerate(lines) if '"index": 3' in line)
    (folder / "records.jsonl").write_text("".join(lines[: third + 1]) + lines[third + 1][:50])
    text = written(folder, tmp_path / "page.html")
    assert "unfinished: search, evaluation 3 of 8" in text
    assert "3 of 8 architectures, 1 of them failed." in text
    assert "No rank correlation over 1 architecture yet." in text
    drawn = set(re.findall(r'<div id="(\w+)" class="plotly-graph-div"', text))
    assert drawn == {"choices", "curves", "correlation", "agreement", "evaluations", "trade_off", "predictions"}


def test_what_a_search_found_stands_beside_its_figures(searched: Path, tmp_path: Path) -> None:
    text = written(searched, tmp_path / "page.html")
    assert "6 of 8 architectures, 1 of them failed." in text
    assert "Spearman&#x27;s rank correlation 0.80 over 4 architectures." in text
    assert "Two dimensions show 83.0% of the variance" in text
    assert "over 4 architectures. One evaluation takes: shared weights 1.2s, shared weights and 50 steps 9.5s, " in text
    assert "<script>alert(1)" not in text


def searches(folder: Path, rewrite: Any, evaluations: tuple[EvaluationRecord, ...]) -> Path:
    """A sweep over two strategies and two seeds: one run was killed in its search, one was refused."""
    rows = []
    for number, (strategy, seed) in enumerate((s, n) for s in ("evolution", "random") for n in (0, 1)):
        own = folder / str(number)
        (own / ".hydra").mkdir(parents=True)
        chosen = (
            f"hydra:\n  runtime:\n    choices:\n      gate: softmax\n      strategy: {strategy}\n      train: fast\n"
        )
        (own / ".hydra" / "hydra.yaml").write_text(chosen)
        rewrite(own, evaluations[: 4 if number == 3 else 6])
        status = "failed: another configuration" if number == 1 else "interrupted"
        overrides = f"strategy={strategy} seed={seed} cost.budget=0.5"
        rows.append({"overrides": overrides, "status": status, "folder": str(own)})
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_sweep_over_strategies_tells_them_apart_and_takes_seeds_together(
    tmp_path: Path, rewrite: Any, evaluations: tuple[EvaluationRecord, ...]
) -> None:
    folder = searches(tmp_path / "sweep", rewrite, evaluations)
    runs = read_runs([folder])
    assert [run.strategy for run in runs] == ["evolution", "evolution", "random", "random"]
    assert [run.series for run in runs] == ["evolution", "evolution", "random", "random"]
    assert [len(run.evaluations) for run in runs] == [6, 0, 6, 4]  # what lies in a refused run's folder is another's
    assert runs[3].status == "unfinished: search, evaluation 4 of 8"
    text = written(folder, tmp_path / "page.html")
    assert 'id="progress"' in text
    assert '<td>evolution</td><td class="n">6, 1 failed</td><td>unfinished: search, evaluation 6 of 8</td>' in text
    assert '<td>evolution</td><td class="n"></td><td>failed: another configuration</td>' in text
    shutil.copytree(folder, tmp_path / "other")
    series = {run.series for run in read_runs([folder, tmp_path / "other"])}
    assert series == {f"{name} {where}" for name in ("evolution", "random") for where in ("sweep", "other")}
    assert [run.series for run in read_runs([folder / "0", folder / "2"])] == ["evolution 0", "random 2"]


def test_a_run_without_hydras_files_has_no_strategy(
    tmp_path: Path, rewrite: Any, evaluations: tuple[EvaluationRecord, ...]
) -> None:
    folder = searches(tmp_path / "sweep", rewrite, evaluations)
    for own in folder.glob("*/.hydra"):
        shutil.rmtree(own)
    runs = read_runs([folder])
    assert [(run.strategy, run.series) for run in runs[1:3]] == [
        (None, "strategy=evolution"),
        (None, "strategy=random"),
    ]


def test_a_search_that_ended_as_asked_is_done(
    tmp_path: Path, rewrite: Any, evaluations: tuple[EvaluationRecord, ...]
) -> None:
    folder = searches(tmp_path / "sweep", rewrite, [dataclasses.replace(e, evaluations=6) for e in evaluations])
    changed(folder, "0", status="done")
    assert [run.status for run in read_runs([folder])][::2] == [
        "done, up to search",
        "unfinished: search, evaluation 6 of 6",
    ]
    rewrite(folder / "0", [*evaluations, Note("the strategy knows no other architecture")])
    assert read_runs([folder])[0].status == "done, up to search"  # 6 of 8
    rewrite(folder / "0", evaluations)
    assert read_runs([folder])[0].status == "unfinished: search, evaluation 6 of 8"


def test_records_of_a_search_that_do_not_fit_together_are_refused(
    tmp_path: Path, rewrite: Any, embedding: EmbeddingRecord, correlation: CorrelationRecord
) -> None:
    for record in (
        dataclasses.replace(embedding, shares=embedding.shares[1:]),
        dataclasses.replace(embedding, path=((0.0,),)),
        dataclasses.replace(correlation, rank=correlation.rank[1:]),
        dataclasses.replace(correlation, shares=correlation.shares[1:]),
    ):
        rewrite(tmp_path, [record])
        with pytest.raises(CheckpointError, match=r"records\.jsonl is damaged: the lists of one of its records"):
            read_runs([tmp_path])


Changed = dict[str, Any]


def before(**values: Any) -> Callable[[Changed], object]:
    return lambda result: result["before"].update(values)


def of_cost(**values: Any) -> Callable[[Changed], object]:
    return lambda result: result["costs"][0].update(values)


def with_int8(result: Changed) -> None:
    measured = {"file": "model.onnx", "bytes": 4, "valid": 0.9, "test": 0.9}
    result["int8"] = {"float32": measured | {"latency_ms": {"1": 1.0}}, "int8": measured | {"latency_ms": {}}}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (before(macs=0), "before compression its macs is 0, where it is more than 0"),
        (before(latency_ms={"1": 0}), "its latency_ms at batch 1 is 0"),
        (before(latency_ms={"one": 1.0}), "has the batch size 'one'"),
        (lambda result: result["after"].update(latency_ms={"0": 1.0}), "has the batch size '0'"),
        (before(onnx_ms={"1": 0}), "its onnx_ms at batch 1 is 0"),
        (before(onnx_ms={"one": 1.0}), "has the batch size 'one'"),
        (with_int8, "float32 and int8 files have different batch sizes"),
        (of_cost(before=0), "its cost macs is 0"),
        (of_cost(agreement={"rank": 1.0, "error": 0.1}), "lacks networks, rank_repeated, error_repeated"),
        (lambda result: result.update(costs=[]), "its result names no cost"),
    ],
)
def test_a_result_that_no_page_can_show_is_refused_alone_and_named_in_a_sweep(
    sweep: Path, tmp_path: Path, damage: Callable[[Changed], object], said: str
) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    path = folder / "0" / "records.jsonl"
    *lines, result = read_records(path)
    damage(result)
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, result]))
    with pytest.raises(CheckpointError, match=rf"records\.jsonl is damaged: .*{said}.*Copy it again"):
        read_runs([folder / "0"])
    assert said in html.unescape(written(folder, tmp_path / "page.html"))


def test_searches_whose_lists_do_not_fit_together_are_refused(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep / "0", tmp_path / "run")
    lines = read_records(folder / "records.jsonl")
    first = next(i for i, line in enumerate(lines) if line.get("search"))
    for part, said in (("costs", []), ("gates", [{"site": "a", "candidates": ["original"], "probabilities": []}])):
        search = lines[first] | {"search": lines[first]["search"] | {part: said}}
        damaged = [*lines[:first], search, *lines[first + 1 :]]
        (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in damaged))
        with pytest.raises(CheckpointError, match="the lists of one of its records"):
            read_runs([folder])


def test_figures_that_were_lost_are_shown_as_such(searched: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(searched, tmp_path / "run")
    lines = read_records(folder / "records.jsonl")
    lines[-1]["seconds"] = {"search": None}
    next(line for line in lines if line["record"] == "CorrelationRecord")["seconds"][0] = None
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "search nan" in written(folder, tmp_path / "page.html")


def changed(sweep: Path, number: str, **cells: str) -> None:
    """Change cells in the row of a run."""
    with (sweep / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if Path(row["folder"]).name == number:
            row |= cells
    with (sweep / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_row_that_failed_does_not_show_the_run_that_lies_in_its_folder(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    changed(folder, "0", status="failed: the run was started with another configuration", overrides="cost.budget=0.5")
    (run,) = (run for run in read_runs([folder]) if run.folder.name == "0")
    assert run.result is None and run.status.startswith("failed")


def test_a_sweep_that_was_to_end_with_the_search_is_done(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    lines = (folder / "1" / "records.jsonl").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '"phase": "search"' in line)
    (folder / "1" / "records.jsonl").write_text("".join(lines[: last + 1]))
    (run,) = (run for run in read_runs([folder]) if run.folder.name == "1")
    assert run.status == "done, up to search"


def test_records_that_cannot_be_read_are_named_in_a_sweep_and_refused_alone(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    path = folder / "0" / "records.jsonl"
    path.write_text("no json\n" + path.read_text())
    (run,) = (run for run in read_runs([folder]) if run.folder.name == "0")
    assert run.status.startswith("its records cannot be read: line 1 of")
    with pytest.raises(CheckpointError, match="line 1 of"):
        read_runs([folder / "0"])
    shutil.rmtree(folder / "1")
    (run,) = (run for run in read_runs([folder]) if run.folder.name == "1")
    assert "no records at" in run.status


def test_runs_in_deeper_folders_of_a_sweep_that_has_moved_are_found(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for number in ("0", "1"):
        shutil.copytree(sweep / number, folder / "budgets" / number)
    shutil.copy(sweep / "results.csv", folder)
    for number in ("0", "1"):
        changed(folder, number, folder=f"/elsewhere/sweep/budgets/{number}")
    assert sorted(run.status for run in read_runs([folder]) if run.result is not None) == ["done", "done"]


def test_a_sweep_without_a_table_yet_is_shown(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "0", tmp_path / "sweep" / "0")
    assert [run.name for run in read_runs([tmp_path / "sweep"])] == ["0"]
    (tmp_path / "sweep" / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LwdcError, match=r"results\.csv is no table of a sweep"):
        read_runs([tmp_path / "sweep"])


@pytest.mark.parametrize(("name", "said"), [("", "neither records.jsonl"), ("gone", "there is none")])
def test_a_folder_that_is_no_run_is_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(LwdcError, match=f"is no folder of a run or sweep: .*{said}.*Name one like"):
        read_runs([tmp_path / name])


def test_what_a_run_says_of_itself_is_text_and_no_markup(sweep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sweep / "0", tmp_path / "run")
    path = folder / "records.jsonl"
    lines = read_records(path)
    lines[0]["text"] = "<img src=x onerror=alert(1)>"
    lines[-1]["sites"][0]["site"] = "</script><script>alert(1)</script>"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = written(folder, tmp_path / "page.html")
    assert "<img src=x" not in text
    assert "</script><script>alert(1)" not in text


def test_the_front_joins_the_runs_that_none_beats() -> None:
    points = [(0.5, 0.9), (0.3, 0.8), (0.4, 0.7), (0.6, 0.9), (0.7, 0.95), (0.3, 0.6)]
    assert figures.undominated(points) == [(0.3, 0.8), (0.5, 0.9), (0.7, 0.95)]


def test_a_measured_cost_comes_first_among_the_axes(sweep: Path) -> None:
    results = [run.result for run in read_runs([sweep]) if run.result is not None]
    assert list(figures.axes(results))[:3] == ["MACs", "parameters", "bytes"]
    measured = [with_latency(result) for result in results]
    axes = figures.axes(measured)
    assert next(iter(axes)) == "latency, as measured"
    assert axes["latency, as measured"] == [0.5, 0.5]


def with_latency(result: Result) -> Result:
    (cost,) = result.costs
    cost = dataclasses.replace(cost, name="latency", unit="ms", before=4.0, after=1.9, measured=2.0)
    return dataclasses.replace(result, costs=(cost,))


def test_the_command_takes_folders_as_they_are_typed(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sweep / "0", tmp_path / "run")
    (folder / "records.jsonl").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    for given, code in (("~/run", 0), (".", 0), ("~nobody-here/run", 2)):
        monkeypatch.setattr(sys, "argv", ["lwdc", "report", given])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
    assert "<title>run</title>" in (folder / "report.html").read_text()
    assert "error: ~nobody-here/run is no folder of a run" in capsys.readouterr().err


def test_the_command_writes_into_the_folder_or_where_it_is_told(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sweep / "0", tmp_path / "run")
    for arguments, out in (
        ([str(folder)], folder / "report.html"), ([str(folder), f"out={tmp_path}/x.html"], None),
        ([str(folder), f"out={tmp_path}"], tmp_path / "report.html"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["lwdc", "report", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert (out or tmp_path / "x.html").stat().st_size > 10**6
    monkeypatch.setattr(sys, "argv", ["lwdc", "report"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "name the folders of runs or sweeps" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where it is not installed."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1100,900",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def requested(browser: Any) -> list[str]:
    """Addresses that the page asked for, and none that it carries itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def test_a_browser_shows_a_run_from_disk_alone(searched: Path, browser: Any, tmp_path: Path) -> None:
    written(searched, tmp_path / "page.html")
    browser.get(f"file://{tmp_path}/page.html")
    of_search = ("correlation", "agreement", "evaluations", "predictions", "embedding")
    for name in ("choices", "costs", "curves", "inheritance", *of_search):
        assert browser.find_elements("css selector", f"#{name} .main-svg"), name
        inside = "const div = document.getElementById(arguments[0]); return div.scrollWidth <= div.clientWidth"
        assert browser.execute_script(inside, name), f"{name} is wider than its place"
    for name, button in (("embedding", "cost"), ("evaluations", "score")):
        (found,) = browser.find_elements("xpath", f"//*[@id='{name}']//*[@class='updatemenu-button'][.='{button}']")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()
        drawn = browser.execute_script("return document.getElementById(arguments[0]).data.map(t => t.visible)", name)
        assert drawn == [False] * 4 + [True] * 4, name
    assert requested(browser) == [f"file://{tmp_path}/page.html"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_phone_shows_a_page_without_scrolling_sideways(searched: Path, browser: Any, tmp_path: Path) -> None:
    written(searched, tmp_path / "page.html")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(f"file://{tmp_path}/page.html")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_click_on_a_point_of_the_front_shows_its_architecture(sweep: Path, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    written(sweep, tmp_path / "page.html")
    browser.get(f"file://{tmp_path}/page.html")
    points = browser.find_elements("css selector", "#front .scatterlayer .points path.point")
    assert len(points) >= 3  # two runs and the baseline
    shown = set()
    for point in points[:2]:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
        ActionChains(browser).move_to_element(point).pause(0.3).click().perform()
        title, table = (browser.find_element("css selector", f"#architecture {tag}") for tag in ("h3", "table"))
        shown.add(title.text)
        assert "layer1.0.conv1" in table.text
    assert shown == {"cost.budget=0.6", "cost.budget=0.8"}
    browser.find_element("xpath", "//tr[@data-run][contains(., 'cost.budget=0.001')]").click()
    assert "cannot be reached" in browser.find_element("id", "architecture").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
