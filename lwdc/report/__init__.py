"""Reports: pages that show what runs and sweeps made of a network."""

from lwdc.report.page import write_report
from lwdc.report.runs import ReadRun, read_runs

__all__ = ["ReadRun", "read_runs", "write_report"]
