"""Reports: what was run where, whether the bits were the reference's, every raw sample; tables and pages of them."""

from bitship.report.base import SCHEMA, Bits, Report, load, save
from bitship.report.compare import Comparison, compare
from bitship.report.summary import Summary, number, summarize

__all__ = ["SCHEMA", "Bits", "Comparison", "Report", "Summary", "compare", "load", "number", "save", "summarize"]
