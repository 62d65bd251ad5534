"""The commands that write a new project (from the folder `template/`) and the recipes' schema."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bake.cli.command import command
from bake.cli.environment import at_most_one, this_program
from bake.cli.options import CommonOptions

if TYPE_CHECKING:
    from bake.console.console import Console

# The package has no file whose name begins with a dot.
_DOT = "dot_"
_RECIPE = "hello"
# Words of the template that are replaced.
_PROJECT, _REPOSITORY, _COMMIT = "PROJECT", "OWNER/bake", "COMMIT"


@command(
    "json",
    positional=["folder"],
    help={"folder": "the project's folder: a new one, or one without recipes"},
    arguments="FOLDER",
    examples=["invoke init my-images", "invoke init ."],
    document="init.InitDocument",
)
def init(console: Console, common: CommonOptions, folder: tuple[str, ...] = ()) -> None:
    """Write a new project: a recipe, a stage, a check and a workflow; existing files are kept."""
    import shlex

    from bake.cli.documents.init import InitDocument
    from bake.errors import RequestError

    name = at_most_one(folder, "folder")
    if name is None:
        raise RequestError("No folder was named", hint="invoke init my-images")
    source = source_of_bake()
    written, kept = write_project(Path(name), source)
    document = InitDocument(folder=Path(name), written=tuple(written), kept=tuple(kept))
    console.result(document, *map(str, written))
    for path in kept:
        console.warn(f"{path} exists, and is kept as it is")
    if source is None:
        console.note(
            "Before GitHub runs .github/workflows/rebuild.yml, write into it where bake comes from"
        )
    if Path(name).samefile("."):
        console.note(f"Next: invoke plan {_RECIPE} --local")
    else:
        program = this_program()  # which a relative path would not find from another folder
        program = str(Path(program).absolute()) if "/" in program else program
        console.note(f"Next: cd {shlex.quote(name)} && {program} plan {_RECIPE} --local")


@command(examples=["invoke schema > recipe.schema.json", "invoke schema | jq .properties.base"])
def schema(console: Console, common: CommonOptions) -> None:
    """Print the JSON Schema of a recipe, with which an editor completes and checks recipes."""
    from bake.recipe.schema import schema_text

    console.output(schema_text().rstrip())


def write_project(folder: Path, source: tuple[str, str] | None) -> tuple[list[Path], list[Path]]:
    """Write the files of a new project; return those that are written, and existing ones.

    `source` is the repository and the commit of bake for the workflow. RequestError if the folder
    is a project already.
    """
    from bake import files
    from bake.errors import RequestError

    if any(folder.glob("manifests/*.toml")):
        raise RequestError(
            f"{folder} is a project already: it has recipes in manifests/",
            hint="Name a new folder, or list its recipes: invoke recipes",
        )
    repository, commit = source or (_REPOSITORY, _COMMIT)
    written, kept = [], []
    for path, text in template():
        target = folder / path
        if target.exists() or target.is_symlink():
            kept.append(target)
            continue
        text = text.replace(_PROJECT, folder.resolve().name)
        text = text.replace(_REPOSITORY, repository).replace(f": {_COMMIT}", f": {commit}")
        files.make_folder(target.parent)
        files.write_file(target, text, mode=0o666)
        written.append(target)
    return written, kept


def template() -> Iterator[tuple[PurePosixPath, str]]:
    """Yield the path and the text of each file of the template."""
    from bake.recipe.schema import schema_text

    yield from _files_below(resources.files("bake.cli") / "template", PurePosixPath())
    yield PurePosixPath("recipe.schema.json"), schema_text()


def _files_below(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        below = path / each.name.replace(_DOT, ".", 1)
        if each.is_file():
            yield below, each.read_text(encoding="utf-8")
        elif each.name != "__pycache__":
            yield from _files_below(each, below)


def source_of_bake() -> tuple[str, str] | None:
    """Return the repository on GitHub and the commit from which bake was installed, if known.

    An installer notes them (PEP 610) if it was given the address of a git repository.
    """
    from bake.files import parse_json

    try:
        noted = parse_json(metadata.distribution("bake").read_text("direct_url.json") or "{}")
        address, commit = urlsplit(noted["url"]), noted["vcs_info"]["commit_id"]
    except (metadata.PackageNotFoundError, ValueError, LookupError, TypeError):
        return None
    repository = address.path.strip("/").removesuffix(".git")
    return (repository, commit) if address.hostname == "github.com" else None
