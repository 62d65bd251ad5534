"""The values that an option or a positional argument can have, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from bake.cli.completion.candidate import Candidate, Place

# These take several values with commas between them.
LISTS = frozenset({"gpu", "instance_type", "market", "region", "to"})
FILES = frozenset({"project", "record", "summary"})


def values_for(place: Place) -> list[Candidate] | None:
    """Return the values that an argument can have; none if they are free. None: names of files."""
    if place.name in FILES or (place.name == "paths" and not _is_remote(place)):
        return None
    find = SOURCES.get(place.name)
    return list(find(place)) if find else []


def _is_remote(place: Place) -> bool:
    return place.command == "get" and place.number == 0


def _recipes(_: Place) -> Iterable[Candidate]:
    from bake.cli.environment import project
    from bake.errors import RequestError
    from bake.recipe.recipe_files import descriptions

    with suppress(RequestError):  # `invoke plan` shows the reason
        yield from (Candidate(name, about) for name, about in descriptions(project()).items())


def _runs_and_recipes(place: Place) -> Iterable[Candidate]:
    from bake import files

    yield from _recipes(place)
    for record in sorted(files.builds().glob("*/record.json"), reverse=True):
        yield Candidate(record.parent.name, "run")


def _regions(_: Place) -> Iterable[Candidate]:
    from bake.aws.client.regions import known_regions

    return (Candidate(name, about) for name, about in known_regions().items())


def _instance_types(_: Place) -> Iterable[Candidate]:
    from bake import catalog

    types = catalog.load().instance_types.values()
    return (Candidate(each.name, f"{each.gpus} × {each.gpu}") for each in types)


def _gpus(_: Place) -> Iterable[Candidate]:
    from bake import catalog

    return (Candidate(name.lower()) for name in catalog.load().gpus)


def _cuda(_: Place) -> Iterable[Candidate]:
    from bake import catalog

    return (Candidate(version) for version in catalog.load().cuda)


def _frameworks(_: Place) -> Iterable[Candidate]:
    from bake import catalog

    return map(Candidate, catalog.load().frameworks)


def _machines(place: Place) -> Iterable[Candidate]:
    from bake.cli.completion.cloud_names import machine_names

    return machine_names(place.word, local=place.local, region=place.region)


def _machines_of_paths(place: Place) -> Iterable[Candidate]:
    return (each._replace(name=f"{each.name}:") for each in _machines(place))


def _images(place: Place) -> Iterable[Candidate]:
    from bake.cli.completion.cloud_names import image_names

    return image_names(place.word, local=place.local, region=place.region)


def _images_and_recipes(place: Place) -> Iterable[Candidate]:
    yield from _recipes(place)
    yield from _images(place)


def _one_of(*names: str) -> Callable[[Place], Iterable[Candidate]]:
    return lambda _: map(Candidate, names)


SOURCES: Mapping[str, Callable[[Place], Iterable[Candidate]]] = MappingProxyType(
    {
        "ami": _images_and_recipes,
        "at_end": _one_of("stop", "terminate"),
        "cuda": _cuda,
        "framework": _frameworks,
        "gpu": _gpus,
        "image": _images_and_recipes,
        "instance_type": _instance_types,
        "machine": _machines,
        "market": _one_of("spot", "on-demand"),
        "paths": _machines_of_paths,
        "recipe": _recipes,
        "region": _regions,
        "shell": _one_of("bash", "zsh", "fish"),
        "sort": _one_of("price", "spot", "memory", "gpu", "left", "type"),
        "to": _regions,
        "type": _instance_types,
        "via": _one_of("ssm"),
        "which": _runs_and_recipes,
        "words": _machines,
    }
)
