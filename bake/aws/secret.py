"""Secrets of a recipe, read from Parameter Store or Secrets Manager, never written."""

from __future__ import annotations

from bake import files
from bake.aws.client.commands import aws_command
from bake.aws.client.session import Cloud
from bake.errors import CloudError, RequestError


def read_parameter(cloud: Cloud, name: str) -> str:
    """Return a parameter's value, decrypted if it is a SecureString (GetParameter)."""
    response = cloud.ssm("GetParameter", Name=name, WithDecryption=True)
    value: str = response["Parameter"]["Value"]
    return value


def read_secret(cloud: Cloud, secret_id: str, key: str | None = None) -> str:
    """Return a secret's current text (GetSecretValue), or the text of `key` in its JSON object.

    RequestError if the secret has another form. The error lists the keys, but no value.
    """
    value = cloud.secrets("GetSecretValue", SecretId=secret_id).get("SecretString")
    if not isinstance(value, str):
        raise RequestError("it contains bytes, not text", hint="Store it as text")
    if key is None:
        return value
    try:
        document = files.parse_json(value)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestError("it is not a JSON object, so it has no keys", hint="Leave out `key`")
    if not isinstance(document.get(key), str):
        keys = ", ".join(sorted(name for name in document if isinstance(document[name], str)))
        raise RequestError(
            f"it has no text under {key}", hint=f"Its keys with text: {keys or 'none'}"
        )
    text: str = document[key]
    return text


def hint_for(cloud: Cloud, error: CloudError, name: str) -> str:
    """Return a hint for an error of reading the parameter or secret `name`.

    docs/iam-policy.json does not contain the permissions to read secrets.
    """
    match error.code:
        case "ParameterNotFound" | "ParameterVersionNotFound":
            command = aws_command(
                "ssm",
                "put-parameter",
                region=cloud.region,
                type="SecureString",
                name=name,
                value="file://value.txt",
            )
            return f"Write the value to the file value.txt, then run: {command}"
        case "ResourceNotFoundException":
            command = aws_command(
                "secretsmanager",
                "create-secret",
                region=cloud.region,
                name=name,
                secret_string="file://value.txt",  # noqa: S106  (a file, not a secret)
            )
            return f"Write the value to the file value.txt, then run: {command}"
        case "AccessDenied" | "AccessDeniedException":
            return "docs/recipes.md lists the permissions for it, under Secrets"
        case _:
            return error.hint
