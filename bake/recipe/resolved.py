"""A recipe, resolved: each of its parts with the facts that the catalog holds about it.

A recipe is resolved once. Validation (`bake.recipe.compatibility`), plan, proof, launch and reports
take the result, so that none of them searches the catalog again.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    A part is None if the catalog has none that fits the recipe's other parts: then the recipe
    cannot work, and `compatibility.check` gives the reason. `installer` is also None for a venv,
    which needs no installer. `driver_version` may be known even if `driver` is None, because it
    may come from another operating system. `machines` are the builder's instance types, in the
    recipe's order.
    """

    recipe: Recipe
    catalog: Catalog
    machines: tuple[InstanceType, ...]
    os_image: OsImage
    driver: Driver | None
    driver_version: str | None
    cuda: Cuda
    toolkit: Toolkit | None
    build: Build | None
    d2l: D2l
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
    def min_driver(self) -> str:
        """The oldest driver version that the CUDA toolkit runs on."""
        return self.catalog.min_driver(self.cuda)


def resolve(recipe: Recipe) -> Resolved:
    """Look up every part of a recipe in the catalog."""
    catalog, driver = catalogs.load(), recipe.driver
    cuda = catalog.cuda[recipe.cuda.version]
    return Resolved(
        recipe=recipe,
        catalog=catalog,
        machines=tuple(map(catalog.instance_type, recipe.builder.instance_types)),
        os_image=catalog.os_image(recipe.base),
        driver=catalog.driver(recipe.base, driver.branch, driver.modules),
        driver_version=catalog.driver_version(recipe.base, driver.branch),
        cuda=cuda,
        toolkit=cuda.on.get(recipe.base),
        build=catalog.build(recipe.framework.name, recipe.framework.version, cuda.version),
        d2l=catalog.d2l[recipe.d2l.version],
        installer=catalog.installer(recipe.python.manager, recipe.python.installer),
    )
