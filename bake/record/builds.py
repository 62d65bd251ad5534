"""The records that are kept on this computer: a folder for each run, with its logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bake.errors import RequestError
from bake.record.record import FAILURE, FILE, Failure, Record, read, read_failure


def of_run(folder: Path) -> Record | Failure:
    """What came of the run whose folder it is. RequestError: nothing that can be read."""
    for name, reader in ((FILE, read), (FAILURE, read_failure)):
        path = folder / name
        if not path.exists():
            continue
        try:
            return reader(path)
        except (OSError, RecursionError, ValueError) as error:
            raise RequestError(
                f"{path} is no record of a bake",
                hint="It has to be as bake wrote it; a newer version may know more than this one",
                details=str(error).splitlines()[:3],
            ) from None
    raise RequestError(
        f"{folder} has no {FILE} of a bake",
        hint="A bake that still runs, or that was killed, has none; others have it in BAKE_BUILDS",
    )


def find(builds: Path, wanted: str = "") -> Path:
    """The folder of a run: by its id, its recipe (the newest), its folder or a file in there;
    without a word the newest of all. RequestError: there is none."""
    if wanted and (path := Path(wanted)).exists():
        return path if path.is_dir() else path.parent
    if wanted and "/" not in wanted and (builds / wanted).is_dir():
        return builds / wanted
    runs = list(_runs(builds))
    named = [folder for folder, run in runs if wanted in ("", run.recipe)]
    if named:
        return named[0]
    of_it = f" of {wanted}" if wanted else ""
    known = ", ".join(sorted({run.recipe for _, run in runs}))
    raise RequestError(
        f"{builds} has no record of a bake{of_it}",
        hint=f"There are some of {known}" if known else "invoke bake writes one",
    )


def before(record: Record, builds: Path) -> Record | None:
    """The last one of this recipe and payload that gave an image, before this one."""
    for _, run in _runs(builds):
        if (
            isinstance(run, Record)
            and (run.recipe, run.payload) == (record.recipe, record.payload)
            and run.started_at < record.started_at
        ):
            return run
    return None


def _runs(builds: Path) -> Iterator[tuple[Path, Record | Failure]]:
    """The newest first; what cannot be read is of another version of this program."""
    found = []
    for folder in {path.parent for path in builds.glob("*/*.json")}:
        try:
            found.append((folder, of_run(folder)))
        except RequestError:
            continue
    yield from sorted(found, key=lambda each: each[1].started_at, reverse=True)


def make_folder(folder: Path) -> None:
    """For the logs and the record; RequestError now rather than in the middle of the bake."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RequestError(
            f"The logs cannot be written to {folder}: {error.strerror}",
            hint="Choose another place: BAKE_BUILDS=FOLDER",
        ) from None
