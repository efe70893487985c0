"""The records file: what a resumed run finds in it, and what a killed one leaves."""

import dataclasses
import json
import math
import typing

import pytest

from lwdc.errors import CheckpointError, WriteError
from lwdc.records import Note, Record, as_dict
from lwdc.tracking import JsonlSink, parse_record, read_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


def write(path, records, **options):
    sink = JsonlSink(path, **options)
    for record in records:
        sink.write(record)
    sink.close()


def test_every_record_is_one_line_and_is_there_before_the_next(path, records):
    sink = JsonlSink(path)
    for number, record in enumerate(records, start=1):
        sink.write(record)
        assert sink.count == number
        assert json.loads(path.read_text().splitlines()[-1])["record"] == type(record).__name__
    sink.close()
    assert len(read_records(path)) == len(records)


def test_records_come_back_as_they_were(path, records, search_records):
    every = [*records, *search_records]
    assert {type(record) for record in every} == set(typing.get_args(Record))
    write(path, every)
    assert [parse_record(data) for data in read_records(path)] == every


def test_names_that_are_no_utf_8_come_back_as_they_were(path):
    note = Note("images/\udcff\\é.png could not be read")
    write(path, [note])
    assert path.read_bytes().isascii() is False  # what can be is written as it is
    assert [parse_record(data) for data in read_records(path)] == [note]


def test_figures_that_are_not_finite_stay_valid_json(path, records):
    broken = dataclasses.replace(records[1], loss=math.nan, train_accuracy=math.inf)
    write(path, [broken])
    line = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not json"))
    assert [line["loss"], line["train_accuracy"]] == [None, None]
    restored = parse_record(line)
    assert math.isnan(restored.loss)
    assert restored.valid_accuracy == broken.valid_accuracy


def test_a_resumed_run_leaves_neither_gaps_nor_repeats(path, records):
    write(path, records[:5])
    write(path, records[3:], keep=3)
    assert read_records(path) == [json.loads(json.dumps(as_dict(record))) for record in records]


def test_a_full_disk_is_named_and_what_was_written_stays(path, records, full_disk):
    sink = JsonlSink(path)
    sink.write(records[0])
    with full_disk(path.stat().st_size + 10), pytest.raises(WriteError, match=r"records\.jsonl cannot be written"):
        sink.write(records[1])
    sink.close()
    assert path.read_bytes()[-1:] != b"\n"  # a part of the line was taken
    write(path, records[1:], keep=1)
    assert [parse_record(data) for data in read_records(path)] == records


def test_a_half_written_last_line_is_dropped(path, records):
    write(path, records[:3])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"record": "EpochRec')
    assert len(read_records(path)) == 3
    write(path, records[3:4], keep=3)
    assert path.read_bytes().startswith(whole)
    assert len(read_records(path)) == 4


def test_without_keep_the_file_is_continued(path, records):
    write(path, records[:2])
    write(path, records[2:])
    assert len(read_records(path)) == len(records)


def test_keep_zero_starts_anew(path, records):
    write(path, records[:2])
    write(path, records[:1], keep=0)
    assert len(read_records(path)) == 1


def test_nothing_but_the_records_is_left_in_the_folder(path, records):
    write(path, records[:2])
    write(path, records[2:], keep=2)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_shorter_than_the_checkpoint_knew_is_refused(path, records):
    write(path, records[:2])
    with pytest.raises(CheckpointError, match="has 2 whole lines, but the checkpoint was written after 5"):
        JsonlSink(path, keep=5)
    assert len(read_records(path)) == 2


def test_a_folder_without_records_is_named(path):
    with pytest.raises(CheckpointError, match=r"no records at .*records.jsonl"):
        read_records(path)


def test_a_line_that_is_not_json_is_named(path):
    path.write_text('{"record": "Note"}\nhello\n')
    with pytest.raises(CheckpointError, match=r"line 2 of .* is not json"):
        read_records(path)


def test_foreign_data_is_no_record():
    with pytest.raises(CheckpointError, match=r"unknown kind of record 'Epoch'; known: EpochRecord, .*, Note, Result"):
        parse_record({"record": "Epoch"})
    with pytest.raises(CheckpointError, match=r"a Note record lacks \[.text.\]"):
        parse_record({"record": "Note", "level": "info"})


def test_line_breaks_in_a_note_do_not_break_the_line(path):
    write(path, [Note("one\r\ntwo\u2028three")])
    assert read_records(path)[0]["text"] == "one\r\ntwo\u2028three"
