"""The properties that a machine must have before its image is called verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bake.recipe.recipe import FRAMEWORK_STAGES, MANAGER_STAGES, Recipe, environment_prefix
from bake.recipe.resolved import Resolved


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The properties that the proof checks. None means that a property is not checked.

    `gpu` is None if no stage installs the driver, `framework` if no stage installs a framework, and
    `environment` if no stage installs Python: such a part cannot be proved. `gpu_model` is the
    catalog's name of the GPU, `gpu_memory_mib` is EC2's figure. `environment` is the name of the
    Python environment, and `conda` is True if conda made it. `d2l` is the version of the package,
    and stands for everything that its stage installs (also Jupyter and its kernel). `kernel_held`:
    an upgrade of the system must not change the kernel. `apt`, `conda_packages` and `pip` are
    the packages that the recipe requests. `stand_in`: their versions mean nothing.
    """

    gpu: Literal["required", "if-present"] | None
    min_driver: str
    framework: Literal["mxnet", "pytorch"] | None = None
    framework_version: str = ""
    environment: str | None = None
    environment_prefix: str = ""
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
    kernel_held: bool = False
    apt: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    stand_in: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages that the recipe requests."""
        return self.apt + self.conda_packages + self.pip

    @property
    def proves_anything(self) -> bool:
        """False if there is nothing to prove: the recipe has only stages of its own."""
        return any((self.gpu, self.cuda_release, self.environment, self.packages))

    @property
    def python_path(self) -> str:
        """The path of the environment's Python."""
        return f"{self.environment_prefix}/bin/python"


def accepted(recipe: Recipe) -> frozenset[str]:
    """Return the values of `bake:verified` that are good enough for the recipe.

    A successful bake of the recipe can have only these results. An image that was proved on a CPU
    does not satisfy a recipe that requires a GPU, although its plan has the same digest.
    """
    without_gpu = "cpu" if _proved_without_gpu(recipe) else "no"
    if "drivers" not in recipe.stages:
        return frozenset({without_gpu})
    required = (recipe.gpu or "required") == "required"
    return frozenset({"gpu"} if required else {"gpu", without_gpu})


def _proved_without_gpu(recipe: Recipe) -> bool:
    return not {"cuda", *MANAGER_STAGES.values(), *FRAMEWORK_STAGES}.isdisjoint(recipe.stages)


def expect(resolved: Resolved, instance_type: str, *, stand_in: bool = False) -> Expectation:
    """Return what the recipe's stages promise on this instance type.

    With stand-ins, Python is the machine's own and the toolkit has no libraries, so neither is
    checked. A recipe that installs the driver and does not set `gpu` requires a GPU.
    """
    recipe, machine = resolved.recipe, resolved.catalog.instance_type(instance_type)
    manager = MANAGER_STAGES[recipe.python.manager]
    with_framework = recipe.framework.name in recipe.stages
    with_d2l = with_framework and "d2l" in recipe.stages
    with_python = with_framework or manager in recipe.stages
    return Expectation(
        gpu=(recipe.gpu or "required") if "drivers" in recipe.stages else None,
        gpu_model=machine.gpu,
        gpu_count=max(1, machine.gpus),  # 0: a slice of a GPU, which nvidia-smi lists as one GPU
        gpu_memory_mib=machine.gpu_memory_mib,
        driver_branch=recipe.driver.branch,
        min_driver=resolved.min_driver,
        cuda_release=recipe.cuda.version if "cuda" in recipe.stages else None,
        cuda_libraries=not stand_in,
        framework=recipe.framework.name if with_framework else None,
        framework_version=recipe.framework.version,
        conda=manager == "conda",
        environment=recipe.python.environment if with_python else None,
        environment_prefix=environment_prefix(recipe),
        python=None if stand_in else recipe.python.version,
        d2l=recipe.d2l.version if with_d2l else None,
        notebooks=recipe.d2l.notebooks and with_d2l,
        kernel_held="drivers" in recipe.stages and recipe.driver.hold_kernel,
        apt=recipe.packages.apt,
        conda_packages=recipe.packages.conda,
        pip=recipe.packages.pip,
        stand_in=stand_in,
    )
