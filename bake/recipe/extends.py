"""`extends` and `without`: a recipe that takes another one as its start.

Tables are joined key by key; every other value is replaced as a whole, and so is `base`. The name
and `default` are never taken from the other recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bake.catalog import nearest
from bake.errors import Finding, RecipeError

EXTENDS, WITHOUT = "extends", "without"
_OWN = ("name", "default", EXTENDS, WITHOUT)
_WHOLE = ("base",)


@dataclass(frozen=True)
class Document:
    """The content of a recipe's file, and the files from which its values are.

    `origins` maps a key, or a table's key as `TABLE.KEY`, to the file that gives its value.
    """

    path: Path
    values: Mapping[str, Any]
    origins: Mapping[str, Path]

    @classmethod
    def of_file(cls, path: Path, values: Mapping[str, Any]) -> Document:
        return cls(path, values, dict.fromkeys(_places(values), path))

    def place(self, place: str) -> str:
        """Return the place of a finding, with the file's name if another file gives the value."""
        key = ".".join(place.partition("[")[0].split(".")[:2])
        origin = self.origins.get(key, self.path)
        return place if origin == self.path else f"{origin.name}: {place}"


def extended(
    document: Document,
    find: Callable[[Document, str], Document],
    earlier: Sequence[Document] = (),
) -> Document:
    """Return a document with everything that it takes from the recipes which it extends.

    `find` returns the document of a recipe that another one extends, by its name. `earlier` are the
    documents that extend this one. RecipeError with the findings of `extends` and `without`.
    """
    chain = [*earlier, document]
    name, without = document.values.get(EXTENDS), document.values.get(WITHOUT, [])
    if name is None:
        if WITHOUT in document.values:
            raise _refused(document, Finding(WITHOUT, f"works only with {EXTENDS}", "Leave it out"))
        return document
    if not isinstance(name, str):
        raise _refused(
            document, Finding(EXTENDS, "is not the name of a recipe", f'{EXTENDS} = "…"')
        )
    parent = find(document, name)
    if any(each.path == parent.path for each in chain):
        circle = " → ".join(each.path.name for each in (*chain, parent))
        message = f"recipes extend each other in a circle: {circle}"
        raise _refused(document, Finding(EXTENDS, message, f"Remove one {EXTENDS}"))
    parent = extended(parent, find, chain)
    return _joined(_reduced(parent, without, document), document)


def _reduced(parent: Document, without: Any, child: Document) -> Document:
    """Return the parent without the sections and keys that the child does not want."""
    if not isinstance(without, list) or not all(isinstance(place, str) for place in without):
        message = "is not a list of sections and keys"
        hint = f'{WITHOUT} = ["d2l", "packages.pip"]'
        raise _refused(child, Finding(WITHOUT, message, hint))
    known = [place for place in _places(parent.values) if place not in _OWN]
    unknown = [
        Finding(f"{WITHOUT}[{index}]", f"{parent.path.name} has no {place}", nearest(place, known))
        for index, place in enumerate(without)
        if place not in known
    ]
    if unknown:
        raise _refused(child, *unknown)
    values = {key: value for key, value in parent.values.items() if key not in (*_OWN, *without)}
    for key, value in values.items():
        if isinstance(value, dict):
            values[key] = {n: each for n, each in value.items() if f"{key}.{n}" not in without}
    left = _places(values)
    return Document(
        parent.path, values, {p: path for p, path in parent.origins.items() if p in left}
    )


def _joined(parent: Document, child: Document) -> Document:
    values = {**parent.values}
    origins = dict(parent.origins)
    for key, value in child.values.items():
        before = values.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and key not in _WHOLE:
            values[key] = {**before, **value}
        else:
            values[key] = value
            origins = {
                place: path
                for place, path in origins.items()
                if place != key and not place.startswith(f"{key}.")
            }
    return Document(child.path, values, {**origins, **child.origins})


def _places(values: Mapping[str, Any]) -> list[str]:
    """Return all keys, and those of tables as `TABLE.KEY`."""
    places: list[str] = []
    for key, value in values.items():
        places.append(key)
        if isinstance(value, dict):
            places += [f"{key}.{name}" for name in value]
    return places


def _refused(document: Document, *findings: Finding) -> RecipeError:
    return RecipeError(f"The recipe {document.path} is not valid", findings=findings)
