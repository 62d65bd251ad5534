"""A recipe, resolved: each of its parts with the facts that the catalog holds about it.

A recipe is resolved once. Validation (`bake.recipe.compatibility`), plan, proof, launch and reports
take the result, so that none of them searches the catalog again.
"""

from __future__ import annotations

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
from bake.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe and the facts about its parts.

    A part is None if the recipe has no such section, or if the catalog has none that fits the
    recipe's other parts: then the recipe cannot work, and `compatibility.check` gives the reason.
    `installer` is also None for a venv, which needs no installer. `driver_version` may be known
    even if `driver` is None, because it may come from another operating system. `machines` are the
    builder's instance types that the catalog knows, in the recipe's order.
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

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPU models of the builder's instance types, without duplicates."""
        names = dict.fromkeys(machine.gpu for machine in self.machines)
        return tuple(self.catalog.gpus[name] for name in names)

    @property
    def drivers_of_os(self) -> list[Driver]:
        """The drivers with packages for this operating system."""
        return [driver for driver in self.catalog.drivers if driver.os == self.os_image.key]

    @property
    def min_driver(self) -> str | None:
        """The oldest driver version that the CUDA release runs on; None without CUDA."""
        return self.catalog.min_driver(self.cuda) if self.cuda else None


def resolve(recipe: Recipe) -> Resolved:
    """Look up every part of a recipe in the catalog."""
    catalog, os_image = catalogs.load(), _os_image(recipe)
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
    )


def _os_image(recipe: Recipe) -> OsImage:
    """Return the operating system of the base, with the login user of the recipe's own base."""
    base = recipe.base
    os_image = catalogs.load().os_image(base.os or "")
    return replace(os_image, ssh_user=base.login_user) if base.login_user else os_image
