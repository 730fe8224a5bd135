"""What a check of `tierwise doctor` found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at.
        state: A problem keeps the gateway from running as it should; a warning costs something, or may later.
        says: What there is.
        do: What to do about it; empty where nothing is to be done.
    """

    check: str
    state: State
    says: str
    do: str = ""


def as_lines(findings: Sequence[Finding]) -> str:
    """Write a line for each finding, with what to do beneath it, and a summary."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.check:<{width}}  {finding.says}")
        if finding.do:
            lines.append(f"{'':<8} {'':<{width}}  do: {finding.do}")
    counts = Counter(finding.state for finding in findings)
    return "\n".join([*lines, f"problems: {counts['problem']}, warnings: {counts['warning']}, ok: {counts['ok']}"])
