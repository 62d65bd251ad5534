"""The records on this computer: one folder per run, with the run's logs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bake.errors import RequestError
from bake.record.record import FAILURE, FILE, Failure, Record, read, read_failure


def read_run(folder: Path) -> Record | Failure:
    """Read the record of the run in this folder; RequestError if no record can be read."""
    for name, reader in ((FILE, read), (FAILURE, read_failure)):
        path = folder / name
        if not path.exists():
            continue
        try:
            return reader(path)
        except (OSError, RecursionError, ValueError) as error:
            raise RequestError(
                f"{path} is not a record of a bake",
                hint="The file was changed, or a newer version of bake wrote it",
                details=str(error).splitlines()[:3],
            ) from None
    raise RequestError(
        f"{folder} contains no {FILE}",
        hint="A bake writes its record when it ends; a bake that was killed has none. "
        "BAKE_BUILDS names the folder that contains the runs",
    )


def find(builds: Path, wanted: str = "") -> Path:
    """Return the folder of a run.

    `wanted` is the run's id, its recipe (the newest run of it), its folder or a file in it; if
    empty, the newest run is returned. RequestError if no such run is found.
    """
    with suppress(OSError):  # a name that no file can have, such as a very long one
        if wanted and (path := Path(wanted)).exists():
            return path if path.is_dir() else path.parent
        if wanted and "/" not in wanted and (builds / wanted).is_dir():
            return builds / wanted
    runs = read_all(builds)
    named = [folder for folder, run in runs if wanted in ("", run.recipe)]
    if named:
        return named[0]
    of_recipe = f" of {wanted}" if wanted else ""
    known = ", ".join(sorted({run.recipe for _, run in runs}))
    raise RequestError(
        f"No record of a bake{of_recipe} found in {builds}",
        hint=f"Recipes with records: {known}" if known else "`invoke bake RECIPE` writes one",
    )


def previous_record(record: Record, runs: Sequence[tuple[Path, Record | Failure]]) -> Record | None:
    """Return the record of the previous image of this recipe and payload, or None.

    `runs` are sorted, the newest first.
    """
    for _, run in runs:
        if (
            isinstance(run, Record)
            and (run.recipe, run.payload) == (record.recipe, record.payload)
            and run.started_at < record.started_at
        ):
            return run
    return None


def read_all(builds: Path) -> list[tuple[Path, Record | Failure]]:
    """Return each run and its folder, the newest first.

    Unreadable records are left out: another version of bake may have written them.
    """
    found = []
    for folder in {path.parent for path in builds.glob("*/*.json")}:
        try:
            found.append((folder, read_run(folder)))
        except RequestError:
            continue
    return sorted(found, key=lambda each: each[1].started_at, reverse=True)
