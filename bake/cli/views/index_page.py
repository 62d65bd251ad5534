"""The index of all builds on this computer: the bakes' records and the benchmarks' documents."""

from __future__ import annotations

from pathlib import Path

from bake.cli.views import bench_page
from bake.errors import FileError
from bake.machine.bench.figures import FILE, Bench, read
from bake.record.report import index
from bake.record.report.index import Benchmark


def write_index(builds: Path) -> Path:
    """Write the index, and the page of each build; return the path of the index.

    RequestError if the folder has no builds; FileError if the index or a page cannot be written. A
    page that cannot be written does not stop the others.
    """
    benches = _benches(builds)
    path, problems = index.make(builds, [_benchmark(*each) for each in benches])
    for folder, bench in benches:
        try:
            bench_page.write_page(bench, folder)
        except FileError as error:
            problems.append(error)
    if problems:
        pages = "1 page" if len(problems) == 1 else f"{len(problems)} pages"
        raise FileError(
            f"The index {path} was written, but {pages} cannot be written",
            hint=problems[0].hint,
            details=[problem.message for problem in problems],
        )
    return path


def _benches(builds: Path) -> list[tuple[Path, Bench]]:
    """Return each benchmark and its folder, the newest first.

    Unreadable documents are left out: another version of bake may have written them.
    """
    found = []
    for path in builds.glob(f"*/{FILE}"):
        try:
            found.append((path.parent, read(path)))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda each: each[1].started_at, reverse=True)


def _benchmark(folder: Path, bench: Bench) -> Benchmark:
    return Benchmark(
        folder=folder.name,
        began=bench.started_at,
        image=bench.recipe or bench.image_id,
        machines=", ".join(each.instance_type for each in bench.machines),
        complete=all(each.figures and not each.failure for each in bench.machines),
    )
