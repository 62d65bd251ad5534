"""The values of a recipe's secrets: they are read on this computer when a bake starts.

They are never shown, and leave this process only for the memory of the builder.
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
    """Return each secret's value by its name.

    RequestError with a finding for each secret that is missing or cannot be used.
    """
    values: dict[str, SecretStr] = {}
    findings: list[Finding] = []
    for name, secret in recipe.secrets.items():
        try:
            values[name] = SecretStr(_usable(_read(cloud, secret)))
        except CloudError as error:
            message = f"{error.message} ({error.code})"
            hint = hint_for(cloud, error, secret.ssm or secret.secretsmanager or "")
            findings.append(Finding(f"secrets.{name}", message, hint))
        except RequestError as error:
            findings.append(Finding(f"secrets.{name}", error.message, error.hint))
    if findings:
        raise RequestError(f"The secrets of {recipe.name} cannot be read", findings=findings)
    return values


def revealed(secrets: Secrets, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the values as plain text: those of `names`, or all."""
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
            hint="Use a longer one: *** replaces it in logs, and so short a text occurs everywhere",
        )
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RequestError("its value is not valid text: it contains a lone surrogate") from None
    if len(raw) > LONGEST_B:
        raise RequestError(f"its value is {len(raw)} bytes long; the maximum is {LONGEST_B}")
    if b"\0" in raw:
        raise RequestError("its value contains a zero byte, as no environment variable can")
    return value
