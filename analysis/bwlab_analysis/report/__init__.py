"""Reports as one HTML file that needs no network: made of the JSON documents that the commands print."""

from bwlab_analysis.report.page import write_report

__all__ = ["write_report"]
