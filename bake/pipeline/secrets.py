"""The values of a recipe's secrets: read on this computer when a bake starts, and shown nowhere.

They leave this process for the machine's memory alone, as a stage's inputs do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pydantic import SecretStr

from bake.aws.client.session import Cloud
from bake.aws.secret import hint_for, read_parameter, read_secret
from bake.console.redaction import SHORTEST
from bake.errors import CloudError, Finding, RequestError
from bake.recipe.recipe import Recipe, Secret

LONGEST_B = 64 * 1024  # what Secrets Manager holds (CreateSecret, `SecretString`)

Secrets = Mapping[str, SecretStr]


def read_secrets(cloud: Cloud, recipe: Recipe) -> Secrets:
    """By name. RequestError with every one that is not there, or cannot be kept."""
    values: dict[str, SecretStr] = {}
    findings: list[Finding] = []
    for name, secret in recipe.secrets.items():
        try:
            values[name] = SecretStr(_usable(_read(cloud, secret)))
        except CloudError as error:
            said = f"{error.message} ({error.code})"
            findings.append(Finding(f"secrets.{name}", said, hint_for(error)))
        except RequestError as error:
            findings.append(Finding(f"secrets.{name}", error.message, error.hint))
    if findings:
        raise RequestError(f"the secrets of {recipe.name} cannot be read", findings=findings)
    return values


def revealed(secrets: Secrets, names: Iterable[str] | None = None) -> dict[str, str]:
    """The values themselves, of these names or of all."""
    chosen = secrets if names is None else names
    return {name: secrets[name].get_secret_value() for name in chosen}


def _read(cloud: Cloud, secret: Secret) -> str:
    if secret.ssm is not None:
        return read_parameter(cloud, secret.ssm)
    if secret.secretsmanager is not None:
        return read_secret(cloud, secret.secretsmanager, secret.key)
    variable = secret.env or ""
    value = os.environ.get(variable, "")
    if not value:
        state = "empty" if variable in os.environ else "not set"
        raise RequestError(
            f"the environment variable {variable} is {state}",
            hint=f"Set it where bake is called: export {variable}=…",
        )
    return value


def _usable(value: str) -> str:
    if len(value.strip()) < SHORTEST:
        raise RequestError(
            f"its value is shorter than {SHORTEST} characters",
            hint="Where a stage prints it, *** takes its place; so short a text stands everywhere",
        )
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RequestError("its value is no text: it holds a lone surrogate") from None
    if len(raw) > LONGEST_B:
        raise RequestError(f"its value is {len(raw)} bytes long, and {LONGEST_B} are the most")
    if b"\0" in raw:
        raise RequestError("its value holds a zero byte, which no environment variable can")
    return value
