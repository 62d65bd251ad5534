"""The properties that a machine must have before its image is called verified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from bake.recipe.recipe import MANAGER_STAGES, environment_name, environment_prefix
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
    `jupyter`: a kernel of Jupyter runs the environment's Python. `kernel_held`: an upgrade of the
    system must not change the kernel. `apt`, `dnf`, `conda_packages` and `pip` are the packages
    that the recipe requests. `stand_in`: their versions mean nothing.
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
    dnf: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    stand_in: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages that the recipe requests."""
        return self.apt + self.dnf + self.conda_packages + self.pip

    @property
    def proves_anything(self) -> bool:
        """False if there is nothing to prove: the recipe has only stages of its own."""
        return any((self.gpu, self.cuda_release, self.environment, self.packages))

    @property
    def python_path(self) -> str:
        """The path of the environment's Python."""
        return f"{self.environment_prefix}/bin/python"


def accepted(resolved: Resolved, *, has_checks: bool = False) -> frozenset[str]:
    """Return the values of `bake:verified` that are good enough for the recipe.

    A successful bake of the recipe can have only these results. An image that was proved on a CPU
    does not satisfy a recipe that requires a GPU, although its plan has the same digest.
    `has_checks`: its plan has checks that are scripts, each of which may be skipped.
    """
    without_gpu = {"cpu"} if _proved_without_gpu(resolved) else {"no"}
    if has_checks:
        without_gpu |= {"cpu"}
    policy = _gpu_policy(resolved)
    if policy is None:
        return frozenset(without_gpu)
    return frozenset({"gpu"} if policy == "required" else {"gpu", *without_gpu})


def _gpu_policy(resolved: Resolved) -> Literal["required", "if-present"] | None:
    """Return what the recipe promises about a GPU; None for nothing.

    A recipe that installs the driver and does not set `gpu` requires a GPU. One without the stage
    promises a GPU only if it sets `gpu`: its base image may have a driver.
    """
    policy = resolved.recipe.gpu
    if policy == "none":
        return None
    if DRIVERS_STAGE in resolved.all_stages:
        return policy or "required"
    return policy


def _proved_without_gpu(resolved: Resolved) -> bool:
    packages = _gpu_policy(resolved) is None and any(
        any(each.recipe.packages.model_dump().values()) for each in resolved.lineage
    )
    return resolved.recipe.python is not None or _toolkit(resolved) is not None or packages


def _toolkit(resolved: Resolved) -> str | None:
    """Return the CUDA release whose toolkit is installed; a framework alone needs none."""
    cuda = resolved.recipe.cuda
    return cuda.version if cuda and "cuda" in resolved.all_stages else None


def expect(resolved: Resolved, instance_type: str, *, stand_in: bool = False) -> Expectation:
    """Return what the recipe's sections promise on this instance type.

    A section belongs to a stage that installs it, as `bake.plan.plan` has checked. With stand-ins,
    Python is the machine's own and the toolkit has no libraries, so neither is checked. What the
    recipe of the base image promises is promised, too.
    """
    recipe = resolved.recipe
    machine = resolved.catalog.instance_types.get(instance_type)
    gpu = machine if machine and machine.gpu in resolved.catalog.gpus else None
    packages = [each.recipe.packages for each in reversed(resolved.lineage)]
    driver, python, framework, d2l = recipe.driver, recipe.python, recipe.framework, recipe.d2l
    return Expectation(
        gpu=_gpu_policy(resolved),
        gpu_model=gpu.gpu if gpu else None,
        # 0: a slice of a GPU, which nvidia-smi lists as one GPU
        gpu_count=max(1, gpu.gpus) if gpu else None,
        gpu_memory_mib=gpu.gpu_memory_mib if gpu else None,
        driver_branch=driver.branch if driver else None,
        min_driver=resolved.min_driver,
        cuda_release=_toolkit(resolved),
        cuda_libraries=not stand_in,
        framework=framework.name if framework else None,
        framework_version=framework.version if framework else "",
        conda=python is not None and MANAGER_STAGES[python.manager] == "conda",
        environment=environment_name(recipe) or None,
        environment_prefix=environment_prefix(recipe),
        python=python.version if python and not stand_in else None,
        d2l=d2l.version if d2l else None,
        notebooks=d2l is not None and d2l.notebooks,
        jupyter=not JUPYTER_STAGES.isdisjoint(resolved.all_stages),
        kernel_held=driver is not None and driver.hold_kernel,
        apt=_all(each.apt for each in packages),
        dnf=_all(each.dnf for each in packages),
        conda_packages=_all(each.conda for each in packages),
        pip=_all(each.pip for each in packages),
        stand_in=stand_in,
    )


def _all(requested: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(requested)))
