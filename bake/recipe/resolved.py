"""A recipe, resolved: each of its parts with the facts that the catalog holds about it.

A recipe is resolved once. Validation (`bake.recipe.compatibility`), plan, proof, launch and reports
take the result, so that none of them searches the catalog again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from bake import catalog as catalogs
from bake.catalog import (
    Build,
    Catalog,
    Cuda,
    D2l,
    Driver,
    Gpu,
    Installer,
    InstanceType,
    OsImage,
    Toolkit,
)
from bake.recipe.recipe import SEAL, SOFTWARE, Recipe


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe and the facts about its parts.

    A part is None if the recipe has no such section, or if the catalog has none that fits the
    recipe's other parts: then the recipe cannot work, and `compatibility.check` gives the reason.
    `installer` is also None for a venv, which needs no installer. `driver_version` may be known
    even if `driver` is None, because it may come from another operating system. `machines` are the
    builder's instance types that the catalog knows, in the recipe's order.

    `base` is the recipe whose image is the base image. Then `recipe` has the sections of that one
    that its own file leaves out, and `inherited` names them. `unchecked` accepts what the catalog
    does not know.
    """

    recipe: Recipe
    catalog: Catalog
    machines: tuple[InstanceType, ...]
    os_image: OsImage
    driver: Driver | None
    driver_version: str | None
    cuda: Cuda | None
    toolkit: Toolkit | None
    build: Build | None
    d2l: D2l | None
    installer: Installer | None
    base: Resolved | None = None
    inherited: frozenset[str] = frozenset()
    unchecked: bool = False

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def lineage(self) -> tuple[Resolved, ...]:
        """This recipe, the one whose image is its base image, and so on."""
        return (self, *(self.base.lineage if self.base else ()))

    def is_based_on(self, names: Collection[str]) -> bool:
        """Tell whether its base image is, also through others, that of one of these recipes."""
        return any(each.name in names for each in self.lineage[1:])

    @property
    def base_stages(self) -> tuple[str, ...]:
        """The stages whose results are in the base image, if it is another recipe's."""
        return tuple(s for each in self.lineage[:0:-1] for s in each.recipe.stages if s != SEAL)

    @property
    def all_stages(self) -> tuple[str, ...]:
        """The stages whose results are in the image."""
        return (*self.base_stages, *self.recipe.stages)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The known GPU models of the builder's instance types, without duplicates."""
        names = dict.fromkeys(machine.gpu for machine in self.machines)
        return tuple(self.catalog.gpus[name] for name in names if name in self.catalog.gpus)

    @property
    def drivers_of_os(self) -> list[Driver]:
        """The drivers with packages for this operating system."""
        return [driver for driver in self.catalog.drivers if driver.os == self.os_image.key]

    @property
    def min_driver(self) -> str | None:
        """The oldest driver version that the CUDA release runs on; None without CUDA."""
        return self.catalog.min_driver(self.cuda) if self.cuda else None


def resolve(recipe: Recipe, base: Resolved | None = None) -> Resolved:
    """Look up every part of a recipe in the catalog. `base` is the recipe of its base image."""
    inherited = frozenset(_inherited(recipe, base.recipe) if base else ())
    if base:
        taken = {section: getattr(base.recipe, section) for section in inherited}
        recipe = recipe.model_copy(update=taken)
    catalog, os_image = catalogs.load(), base.os_image if base else _os_image(recipe)
    os = os_image.key
    driver, framework, python = recipe.driver, recipe.framework, recipe.python
    cuda = catalog.cuda[recipe.cuda.version] if recipe.cuda else None
    release = cuda.version if cuda else None
    types = recipe.builder.instance_types
    return Resolved(
        recipe=recipe,
        catalog=catalog,
        machines=tuple(catalog.instance_types[t] for t in types if t in catalog.instance_types),
        os_image=os_image,
        driver=catalog.driver(os, driver.branch, driver.modules) if driver else None,
        driver_version=catalog.driver_version(os, driver.branch) if driver else None,
        cuda=cuda,
        toolkit=cuda.on.get(os) if cuda else None,
        build=catalog.build(framework.name, framework.version, release) if framework else None,
        d2l=catalog.d2l[recipe.d2l.version] if recipe.d2l else None,
        installer=catalog.installer(python.manager, python.installer) if python else None,
        base=base,
        inherited=inherited,
    )


def with_catalog(resolved: Resolved, catalog: Catalog) -> Resolved:
    """Return the same recipe with a catalog that knows more instance types."""
    types = resolved.recipe.builder.instance_types
    machines = tuple(catalog.instance_types[t] for t in types if t in catalog.instance_types)
    return replace(resolved, catalog=catalog, machines=machines)


def _inherited(recipe: Recipe, base: Recipe) -> Iterator[str]:
    """Yield the sections that a recipe takes over from the recipe of its base image."""
    for section in SOFTWARE:
        if getattr(recipe, section) is None and getattr(base, section) is not None:
            yield section


def _os_image(recipe: Recipe) -> OsImage:
    """Return the operating system of the base, with the login user of the recipe's own base."""
    base = recipe.base
    os_image = catalogs.load().os_image(base.os or "")
    return replace(os_image, ssh_user=base.login_user) if base.login_user else os_image
