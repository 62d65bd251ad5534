"""The documents of recipes and their locks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from bake.cli.documents.document import Document, FailedRecipe, Part, PathText, Payload
from bake.recipe.recipe import Recipe, cuda_of, framework_of


class RecipeEntry(Part):
    """A recipe."""

    name: str = Field(description="its name")
    description: str = Field(description="what it is for")
    is_default: bool = Field(description="true if `--cuda` alone selects it")
    is_built_in: bool = Field(description="true if it is of bake, and not of your project")
    replaces_built_in: bool = Field(
        description="true if it takes the place of a built-in recipe of its name"
    )
    base: str = Field(description="the operating system, or the image from which it starts")
    driver_branch: str | None = Field(description="the branch of the NVIDIA driver")
    cuda_version: str | None = Field(description="the CUDA release")
    python_version: str | None = Field(description="the version of Python")
    python_manager: Literal["miniconda", "miniforge", "venv"] | None = Field(
        description="what makes its Python environment"
    )
    framework: str | None = Field(description="the framework")
    framework_version: str | None = Field(description="the framework's version")
    instance_types: tuple[str, ...] = Field(description="the builders, in order of preference")
    stages: tuple[str, ...] = Field(description="its stages, in their order")
    settings: dict[str, Any] = Field(
        description="the whole recipe, with the keys and values of docs/recipes.md"
    )

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, own: Collection[str], replacing: Collection[str]
    ) -> RecipeEntry:
        """`own` are the names of the project's recipes, some of them `replacing` built-in ones."""
        return cls.of(
            recipe,
            is_built_in=recipe.name not in own,
            replaces_built_in=recipe.name in replacing,
            is_default=recipe.default,
            base=str(recipe.base),
            driver_branch=recipe.driver.branch if recipe.driver else None,
            cuda_version=cuda_of(recipe),
            python_version=recipe.python.version if recipe.python else None,
            python_manager=recipe.python.manager if recipe.python else None,
            framework=framework_of(recipe),
            framework_version=recipe.framework.version if recipe.framework else None,
            instance_types=recipe.builder.instance_types,
            settings=recipe.model_dump(mode="json"),
        )


class RecipesDocument(Document):
    """The recipes."""

    recipes: tuple[RecipeEntry, ...] = Field(description="the recipes, by name")
    broken: tuple[FailedRecipe, ...] = Field(description="files that are not valid recipes")


class LockEntry(Part):
    """A lock that was written."""

    recipe: str = Field(description="the recipe")
    path: PathText = Field(description="the lock's file")
    run_id: str = Field(description="the run whose versions it has")
    payload: Payload = Field(description="whether real software was installed, or stand-ins")
    apt_package_count: int = Field(description="how many apt packages it pins")
    conda_package_count: int = Field(description="how many conda packages it pins")
    wheel_count: int = Field(description="how many pip packages it pins")
    file_count: int = Field(description="how many other downloads it pins")


class LockDocument(Document):
    """The locks that were written."""

    locks: tuple[LockEntry, ...] = Field(description="one for each recipe")


class ReportDocument(Document):
    """The page of a bake, or with `--all` the index of all builds."""

    path: PathText = Field(description="the page's file")
