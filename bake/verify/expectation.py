"""The properties that a machine must have before its image is called verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bake.recipe.recipe import MANAGER_STAGES, Recipe, environment_name, environment_prefix
from bake.recipe.resolved import Resolved

DRIVERS_STAGE = "drivers"
# Both install JupyterLab with a kernel of the environment.
JUPYTER_STAGES = frozenset({"d2l", "jupyter"})


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The properties that the proof checks. None means that a property is not checked.

    `gpu` is None if no GPU is promised, `framework` if the recipe has no framework, and
    `environment` if it has no Python: such a part cannot be proved. `gpu_model` is the
    catalog's name of the GPU, `gpu_memory_mib` is EC2's figure. `environment` is the name of the
    Python environment, and `conda` is True if conda made it. `d2l` is the version of the package.
    `jupyter`: a kernel of Jupyter runs the environment's Python. `kernel_held`:
    an upgrade of the system must not change the kernel. `apt`, `conda_packages` and `pip` are
    the packages that the recipe requests. `stand_in`: their versions mean nothing.
    """

    gpu: Literal["required", "if-present"] | None
    min_driver: str | None = None
    framework: str | None = None
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
    jupyter: bool = False
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


def accepted(recipe: Recipe, *, has_checks: bool = False) -> frozenset[str]:
    """Return the values of `bake:verified` that are good enough for the recipe.

    A successful bake of the recipe can have only these results. An image that was proved on a CPU
    does not satisfy a recipe that requires a GPU, although its plan has the same digest.
    `has_checks`: its plan has checks that are scripts, each of which may be skipped.
    """
    without_gpu = {"cpu"} if _proved_without_gpu(recipe) else {"no"}
    if has_checks:
        without_gpu |= {"cpu"}
    policy = _gpu_policy(recipe)
    if policy is None:
        return frozenset(without_gpu)
    return frozenset({"gpu"} if policy == "required" else {"gpu", *without_gpu})


def _gpu_policy(recipe: Recipe) -> Literal["required", "if-present"] | None:
    """Return what the recipe promises about a GPU; None for nothing.

    A recipe that installs the driver and does not set `gpu` requires a GPU. One without the stage
    promises a GPU only if it sets `gpu`: its base image may have a driver.
    """
    if recipe.gpu == "none":
        return None
    if DRIVERS_STAGE in recipe.stages:
        return recipe.gpu or "required"
    return recipe.gpu


def _proved_without_gpu(recipe: Recipe) -> bool:
    toolkit = recipe.cuda is not None and "cuda" in recipe.stages
    packages = _gpu_policy(recipe) is None and any(recipe.packages.model_dump().values())
    return recipe.python is not None or toolkit or packages


def expect(resolved: Resolved, instance_type: str, *, stand_in: bool = False) -> Expectation:
    """Return what the recipe's sections promise on this instance type.

    A section belongs to a stage that installs it, as `bake.plan.plan` has checked. With stand-ins,
    Python is the machine's own and the toolkit has no libraries, so neither is checked.
    """
    recipe = resolved.recipe
    machine = resolved.catalog.instance_types.get(instance_type)
    driver, python, framework, d2l = recipe.driver, recipe.python, recipe.framework, recipe.d2l
    return Expectation(
        gpu=_gpu_policy(recipe),
        gpu_model=machine.gpu if machine else None,
        # 0: a slice of a GPU, which nvidia-smi lists as one GPU
        gpu_count=max(1, machine.gpus) if machine else None,
        gpu_memory_mib=machine.gpu_memory_mib if machine else None,
        driver_branch=driver.branch if driver else None,
        min_driver=resolved.min_driver,
        cuda_release=recipe.cuda.version if recipe.cuda and "cuda" in recipe.stages else None,
        cuda_libraries=not stand_in,
        framework=framework.name if framework else None,
        framework_version=framework.version if framework else "",
        conda=python is not None and MANAGER_STAGES[python.manager] == "conda",
        environment=environment_name(recipe) or None,
        environment_prefix=environment_prefix(recipe),
        python=python.version if python and not stand_in else None,
        d2l=d2l.version if d2l else None,
        notebooks=d2l is not None and d2l.notebooks,
        jupyter=not JUPYTER_STAGES.isdisjoint(recipe.stages),
        kernel_held=driver is not None and driver.hold_kernel,
        apt=recipe.packages.apt,
        conda_packages=recipe.packages.conda,
        pip=recipe.packages.pip,
        stand_in=stand_in,
    )
