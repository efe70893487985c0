"""Reports: pages that show what runs and sweeps made of a network, and their figures as files."""

from lwdc.report.images import write_images
from lwdc.report.page import write_report
from lwdc.report.runs import ReadRun, read_runs

__all__ = ["ReadRun", "read_runs", "write_images", "write_report"]
