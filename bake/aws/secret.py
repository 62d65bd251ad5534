"""Secrets of a recipe, read from Parameter Store or Secrets Manager, never written."""

from __future__ import annotations

from bake import files
from bake.aws.client.session import Cloud
from bake.errors import CloudError, RequestError


def read_parameter(cloud: Cloud, name: str) -> str:
    """Return a parameter's value, decrypted if it is a SecureString (GetParameter)."""
    response = cloud.ssm("GetParameter", Name=name, WithDecryption=True)
    value: str = response["Parameter"]["Value"]
    return value


def read_secret(cloud: Cloud, secret_id: str, key: str | None = None) -> str:
    """Return a secret's current text, or with `key` the text of that key in its JSON object.

    (GetSecretValue.) RequestError if the secret has another form; it lists the keys, but no value.
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


def hint_for(error: CloudError) -> str:
    """Return a hint for an error of reading a secret; docs/iam-policy.json does not allow it."""
    match error.code:
        case "ParameterNotFound" | "ParameterVersionNotFound":
            return "Create it with aws ssm put-parameter --type SecureString --name NAME --value file://FILE"
        case "ResourceNotFoundException":
            return "Create it with aws secretsmanager create-secret --name NAME --secret-string file://FILE"
        case "AccessDenied" | "AccessDeniedException":
            return "docs/recipes.md lists the permissions for it, under Secrets"
        case _:
            return error.hint
