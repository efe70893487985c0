"""Architectures as plain data."""

from pathlib import Path
from typing import Any

import pytest

from lwdc.architecture import Architecture
from lwdc.errors import ArchitectureError

CHOSEN = Architecture({"layer1": {"op": "grouped", "groups": 4}, "layer20": {"op": "skip"}, "up": {"op": "original"}})


def test_a_saved_architecture_loads_as_it_was(tmp_path: Path) -> None:
    CHOSEN.save(tmp_path / "folder" / "a.json")
    loaded = Architecture.load(tmp_path / "folder" / "a.json")
    assert loaded == CHOSEN
    assert list(loaded.choices) == ["layer1", "layer20", "up"]  # in forward order
    assert Architecture.from_dict(CHOSEN.to_dict()) == CHOSEN


def test_the_data_is_a_copy() -> None:
    CHOSEN.to_dict()["choices"]["layer1"]["groups"] = 7
    assert CHOSEN.choices["layer1"]["groups"] == 4
    made_of = Architecture({"layer1": {"op": "sum", "of": [{"op": "grouped", "groups": 4}, {"op": "skip"}]}})
    made_of.to_dict()["choices"]["layer1"]["of"][0]["groups"] = 7
    assert made_of.choices["layer1"]["of"][0]["groups"] == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r'an architecture is written {"format": 1, "choices": {site: candidate}}'),
        ({"format": 2, "choices": {}}, "an architecture is written"),
        ({"format": 1, "choices": []}, "an architecture is written"),
        ({"format": 1, "choices": {"a": "skip"}}, "architecture, site 'a': a candidate is written {op: name"),
        ({"format": 1, "choices": {"a": {"op": "skipp"}}}, "site 'a': unknown operator 'skipp'. Did you mean 'skip'"),
        ({"format": 1, "choices": {"a": {"op": "grouped"}}}, "site 'a': operator 'grouped' cannot be built from {}"),
    ],
)
def test_anything_else_is_refused_with_what_is_accepted(data: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(data)


@pytest.mark.parametrize("content", [None, "", "{", "\x00"])
def test_a_file_that_holds_no_architecture_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArchitectureError, match=f"no architecture can be read from {path}: "):
        Architecture.load(path)


def test_changes_name_the_sites_that_differ() -> None:
    other = Architecture({"layer1": {"op": "grouped", "groups": 2}, "up": {"op": "original"}, "new": {"op": "zero"}})
    assert CHOSEN.changes(other) == {
        "layer1": ("grouped_4", "grouped_2"),
        "layer20": ("skip", "-"),
        "new": ("-", "zero"),
    }
    assert CHOSEN.changes(CHOSEN) == {}


def test_it_prints_one_aligned_line_a_site() -> None:
    assert CHOSEN.pretty() == "layer1   grouped_4\nlayer20  skip\nup       original"
    assert Architecture({}).pretty() == ""


def _uniform(op: str, count: int, *others: str) -> Architecture:
    return Architecture({str(i): {"op": name} for i, name in enumerate([op] * count + list(others))})


def test_a_search_that_found_nothing_is_told() -> None:
    assert "nothing was compressed" in str(_uniform("original", 3).verdict())
    assert _uniform("original", 3, "skip").verdict() is None
    assert Architecture({}).verdict() is None


@pytest.mark.parametrize("op", ["skip", "zero", "avg_pool", "max_pool"])
def test_a_search_that_fled_to_one_operator_without_weights_is_told(op: str) -> None:
    assert str(_uniform(op, 3, "original").verdict()).startswith(f"3 of 4 sites chose {op!r}, which has no weights")
    assert _uniform(op, 2, "original", "original").verdict() is None
    assert _uniform("separable", 4).verdict() is None
