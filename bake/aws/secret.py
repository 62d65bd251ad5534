"""Values that somebody has put into Parameter Store or Secrets Manager: read, never written."""

from __future__ import annotations

from bake import files
from bake.aws.client.session import Cloud
from bake.errors import CloudError, RequestError


def read_parameter(cloud: Cloud, name: str) -> str:
    """A parameter's value, decrypted where it is a SecureString (GetParameter)."""
    answer = cloud.ssm("GetParameter", Name=name, WithDecryption=True)
    value: str = answer["Parameter"]["Value"]
    return value


def read_secret(cloud: Cloud, secret_id: str, key: str | None = None) -> str:
    """A secret's current text; with `key`, a text in the JSON object that it is (GetSecretValue).

    RequestError when it is of another kind; it names the keys that are there, and no value.
    """
    value = cloud.secrets("GetSecretValue", SecretId=secret_id).get("SecretString")
    if not isinstance(value, str):
        raise RequestError("it holds bytes and no text", hint="Store it as text")
    if key is None:
        return value
    try:
        document = files.parse_json(value)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestError("it is no JSON object, so that it has no keys", hint="Leave key out")
    if not isinstance(document.get(key), str):
        there = ", ".join(sorted(name for name in document if isinstance(document[name], str)))
        raise RequestError(f"it has no text under {key}", hint=f"There is {there or 'none'}")
    text: str = document[key]
    return text


def hint_for(error: CloudError) -> str:
    """What to do when AWS does not give a value: what is needed for it is in no policy of ours."""
    match error.code:
        case "ParameterNotFound" | "ParameterVersionNotFound":
            return "Create it: aws ssm put-parameter --type SecureString --value file://…"
        case "ResourceNotFoundException":
            return "Create it: aws secretsmanager create-secret --secret-string file://…"
        case "AccessDenied" | "AccessDeniedException":
            return "The permissions for it are in docs/recipes.md, under Secrets"
        case _:
            return error.hint
