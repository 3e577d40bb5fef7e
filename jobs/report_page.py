"""PLACEHOLDER of this branch only: the page itself comes with `jobs/templates`."""

import html
import json
from typing import Any


def render(report: dict[str, Any]) -> str:
    """The report as one HTML page."""
    return f"<!doctype html><title>report</title><pre>{html.escape(json.dumps(report, indent=1))}</pre>"
