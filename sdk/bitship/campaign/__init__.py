"""Campaigns: a suite of models, targets and devices, run in parallel, resumable, into a folder of results."""

from bitship.campaign.results import Record, Results, Status, open_results, read, reports
from bitship.campaign.run import Watcher, run
from bitship.campaign.suite import Job, Suite, jobs
from bitship.campaign.suite import read as read_suite

__all__ = [
    "Job",
    "Record",
    "Results",
    "Status",
    "Suite",
    "Watcher",
    "jobs",
    "open_results",
    "read",
    "read_suite",
    "reports",
    "run",
]
