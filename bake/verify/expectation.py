"""What a machine must be and do so that an image of it may be called verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bake.recipe.recipe import FRAMEWORK_STAGES, MANAGER_STAGES, Recipe, environment_prefix
from bake.recipe.resolved import Resolved


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """`None` is not looked at. `gpu_model` is the catalog's name, `gpu_memory_mib` EC2's figure.

    `gpu` is None where no driver is installed, `environment` where there is no Python of the
    recipe's, `framework` where there is none: what no stage installs has nothing to be proved.

    `environment` is the Python environment's name, and `conda` says who runs it; `d2l` stands for
    all that its stage installs (package, Jupyter, a kernel), `notebooks` for the book's.
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

    @property
    def anything(self) -> bool:
        """Whether there is anything to prove: a recipe of own scripts alone promises none of it."""
        return any((self.gpu, self.cuda_release, self.environment))

    @property
    def python_path(self) -> str:
        return f"{self.environment_prefix}/bin/python"


def accepted(recipe: Recipe) -> frozenset[str]:
    """The proofs (`bake:verified`) with which an image is all that the recipe asks for.

    They are those with which its bake can end. An image that was proved on a CPU is none for a
    recipe that requires a GPU, although both have the digest of one plan.
    """
    without_gpu = "cpu" if _proved_without_gpu(recipe) else "no"
    if "drivers" not in recipe.stages:
        return frozenset({without_gpu})
    required = (recipe.gpu or "required") == "required"
    return frozenset({"gpu"} if required else {"gpu", without_gpu})


def _proved_without_gpu(recipe: Recipe) -> bool:
    return not {"cuda", *MANAGER_STAGES.values(), *FRAMEWORK_STAGES}.isdisjoint(recipe.stages)


def expect(resolved: Resolved, instance_type: str, *, stand_in: bool = False) -> Expectation:
    """What this recipe's stages promise on this type of machine.

    A stand-in's Python is the machine's own, and its toolkit has no libraries: there, neither is
    looked at. A recipe that installs a driver and leaves its GPU policy open requires a GPU.
    """
    recipe, machine = resolved.recipe, resolved.catalog.instance_type(instance_type)
    manager = MANAGER_STAGES[recipe.python.manager]
    with_framework = recipe.framework.name in recipe.stages
    with_d2l = with_framework and "d2l" in recipe.stages
    with_python = with_framework or manager in recipe.stages
    return Expectation(
        gpu=(recipe.gpu or "required") if "drivers" in recipe.stages else None,
        gpu_model=machine.gpu,
        gpu_count=max(1, machine.gpus),  # 0: a slice of one, which nvidia-smi shows as a GPU
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
    )
