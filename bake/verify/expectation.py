"""What a machine must be and do so that an image of it may be called verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bake.catalog import Catalog
    from bake.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """`None` is not looked at. `gpu_model` is the catalog's name, `gpu_memory_mib` EC2's figure.

    `environment` is the Python environment's name, and `conda` says who runs it; `d2l` stands for
    all that its stage installs (package, Jupyter, a kernel), `notebooks` for the book's.
    """

    gpu: Literal["required", "if-present"]
    min_driver: str
    framework: Literal["mxnet", "pytorch"]
    framework_version: str
    environment: str
    environment_prefix: str
    gpu_model: str | None = None
    gpu_count: int | None = None
    gpu_memory_mib: int | None = None
    driver_branch: str | None = None
    cuda_release: str | None = None
    cuda_libraries: bool = True
    conda: bool = False
    python: str | None = None
    d2l: str | None = None
    notebooks: bool = False

    @property
    def python_path(self) -> str:
        return f"{self.environment_prefix}/bin/python"


def expect(
    recipe: Recipe, instance_type: str, catalog: Catalog, *, stand_in: bool = False
) -> Expectation:
    """What this recipe promises on this type of machine.

    A stand-in's Python is the machine's own, and its toolkit has no libraries: there, neither is
    looked at. A recipe that leaves its GPU policy open requires a GPU.
    """
    from bake.plan import environment_prefix
    from bake.recipe import MANAGER_STAGES

    machine = catalog.instance_type(instance_type)
    manager = MANAGER_STAGES[recipe.python.manager]
    with_d2l = "d2l" in recipe.stages
    return Expectation(
        gpu=recipe.gpu or "required",
        gpu_model=machine.gpu,
        gpu_count=max(1, machine.gpus),  # 0: a slice of one, which nvidia-smi shows as a GPU
        gpu_memory_mib=machine.gpu_memory_mib,
        driver_branch=recipe.driver.branch,
        min_driver=catalog.min_driver(catalog.cuda[recipe.cuda.version]),
        cuda_release=recipe.cuda.version if "cuda" in recipe.stages else None,
        cuda_libraries=not stand_in,
        framework=recipe.framework.name,
        framework_version=recipe.framework.version,
        conda=manager == "conda",
        environment=recipe.python.environment,
        environment_prefix=environment_prefix(recipe),
        python=None if stand_in else recipe.python.version,
        d2l=recipe.d2l.version if with_d2l else None,
        notebooks=recipe.d2l.notebooks and with_d2l,
    )
