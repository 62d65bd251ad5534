"""Other values for a recipe, as the options of a command give them."""

from __future__ import annotations

from collections.abc import Sequence

from bake import catalog
from bake.catalog import numbers
from bake.errors import RecipeError
from bake.recipe.recipe import Recipe, cuda_of, framework_of, validated


def override(
    recipe: Recipe,
    *,
    cuda: str | None = None,
    framework: str | None = None,
    region: str | None = None,
    instance_types: Sequence[str] = (),
    spot: bool | None = None,
    name: str | None = None,
) -> Recipe:
    """Return a copy with these values; RecipeError if one of them is not valid.

    `framework` selects its newest version for the CUDA release, and its stage. The result may
    still be incompatible (`bake.recipe.compatibility`).
    """
    document = recipe.model_dump(exclude_unset=True)
    own = framework_of(recipe)
    if cuda is not None:
        _refuse_missing(recipe, "cuda", f"--cuda {cuda}")
        document["cuda"]["version"] = cuda
    if framework is not None and framework != own:
        _refuse_missing(recipe, "framework", f"--framework {framework}")
        version = _newest_version(framework, cuda or cuda_of(recipe))
        document["framework"] = {"name": framework, "version": version}
        document["stages"] = [framework if s == own else s for s in recipe.stages]
        if after := recipe.checkpoints.after:
            document["checkpoints"]["after"] = [framework if s == own else s for s in after]
    if region is not None:
        document["region"] = region
    if instance_types:
        document["builder"]["instance_types"] = list(instance_types)
    if spot is not None:
        document["builder"]["market"] = "spot" if spot else "on-demand"
    if name is not None:
        document["name"] = name
    return validated(document, f"These overrides are not valid for {recipe.name}")


def _refuse_missing(recipe: Recipe, section: str, option: str) -> None:
    if getattr(recipe, section) is None:
        raise RecipeError(
            f"{option} changes [{section}], which the recipe {recipe.name} does not have",
            hint=f"Leave out {option}, or name another recipe",
        )


def _newest_version(framework: str, cuda: str | None) -> str:
    builds = [b for b in catalog.load().builds if b.name == framework]
    fitting = [b for b in builds if b.is_for(cuda)] or builds
    return max((b.version for b in fitting), key=numbers, default="0")
