"""TODO docstring."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from bake.console.console import Console
from bake.pipeline.doctor import DoctorResult, Prerequisite


def show(console: Console, diagnosis: DoctorResult) -> None:
    """A table, then what to do about each, and what to add to the policy."""
    checks = diagnosis.checks
    console.table(["what", "is", "why"], list(_rows(checks)), empty="")
    for advice in dict.fromkeys(check.advice for check in checks if check.advice):
        console.note(f"→ {advice}")
    added = {"Version": "2012-10-17", "Statement": list(diagnosis.statements)}
    if diagnosis.statements:
        console.note("→ Add to the policy, which docs/iam-policy.json has whole:")
        console.print(json.dumps(added, indent=2))
    if any(check.outcome == "not asked" for check in checks):
        console.note(
            "What was not asked may be allowed or not: those calls can be tried only on something "
            "of ours, or asked of IAM's simulator (iam:SimulatePrincipalPolicy)."
        )
    document = {
        "well": diagnosis.well,
        "checks": [vars(check) for check in checks],
        "policy": added if diagnosis.statements else None,
    }
    if console.json:
        console.result(document)


def _rows(checks: Sequence[Prerequisite]) -> Iterator[list[str]]:
    """One for each, but for permissions that could not be asked: they are many, for few reasons."""
    unknown: dict[str, list[str]] = {}
    for check in checks:
        if _is_unknown(check):
            unknown.setdefault(check.detail, []).append(check.subject)
    for check in checks:
        if not _is_unknown(check):
            yield [check.subject, check.outcome, check.detail]
        elif actions := unknown.pop(check.detail, None):
            yield ["permissions", check.outcome, f"{check.detail}: {', '.join(actions)}"]


def _is_unknown(check: Prerequisite) -> bool:
    return check.outcome == "not asked" and ":" in check.subject
