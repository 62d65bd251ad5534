"""Results of `invoke doctor`: a table, advice, and the JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from bake.cli.documents.doctor import DoctorDocument
from bake.console.console import Console
from bake.pipeline.doctor import DoctorResult, Prerequisite


def show_diagnosis(console: Console, diagnosis: DoctorResult) -> None:
    """Show a table of all checks, then what to do, and the statements that the policy lacks."""
    checks = diagnosis.checks
    columns = ["what", "is", "why"]
    console.table(columns, list(_rows(checks)), empty="", fold=columns)
    for advice in dict.fromkeys(check.advice for check in checks if check.advice):
        console.note(f"→ {advice}")
    added = {"Version": "2012-10-17", "Statement": list(diagnosis.statements)}
    if diagnosis.statements:
        console.note(
            "→ Add this to the policy (docs/iam-policy.json is the complete one):",
            *json.dumps(added, indent=2).splitlines(),
        )
    if any(map(_is_unknown, checks)):
        console.note(
            "Permissions that were not checked may be allowed or not: these calls can be tried "
            "only on existing resources, or with IAM's simulator (iam:SimulatePrincipalPolicy)."
        )
    missing_policy = added if diagnosis.statements else None
    console.result(DoctorDocument.of_result(diagnosis, missing_policy))


def _rows(checks: Sequence[Prerequisite]) -> Iterator[list[str]]:
    """Return a row for each check; permissions that could not be checked share one per reason."""
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
    return check.outcome == "not checked" and ":" in check.subject
