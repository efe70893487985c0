"""Tracking: where the records of a run go; the real ``wandb`` is imported once a ``WandbSink`` is made."""

from lwdc.tracking.jsonl import JsonlSink, parse_record, read_records, replace_last
from lwdc.tracking.sink import ProgressSink, ReplaySink, Sink
from lwdc.tracking.terminal import TerminalSink
from lwdc.tracking.wandb import WandbSink

__all__ = [
    "JsonlSink",
    "ProgressSink",
    "ReplaySink",
    "Sink",
    "TerminalSink",
    "WandbSink",
    "parse_record",
    "read_records",
    "replace_last",
]
