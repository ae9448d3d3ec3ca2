"""The report of a study as a frozen record, and its file `report.json`."""

import json
from pathlib import Path
from typing import Any

# What a report must have to be gone on with.
_KEYS = {"fingerprint", "best", "test", "default_test", "retrain", "test_opened_for", "versions", "seconds"}


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report that was written to the folder; None where there is none that can be read."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.keys() >= _KEYS else None
