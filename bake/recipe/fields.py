"""The kinds of value in a recipe, each with the hint for an invalid one.

An invalid value raises a pydantic error of the type "bake" with a message, a hint, and `below`: the
place under the one that pydantic reports, if the error is one level deeper.
`bake.recipe.validation` turns these errors into findings.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from bake import catalog
from bake.catalog import VERSION, nearest
from bake.recipe.payload import SIGNED, UPSTREAM
from bake.recipe.variable import is_free

# EC2 allows 50 tags on a resource; bake needs one for each stage and about ten more.
MAX_TAGS = 25

# Control characters, surrogates, and separators of lines and paragraphs.
_INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}
# Characters that change the direction of writing.
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def invalid_value(message: str, hint: str = "", *, below: str = "") -> PydanticCustomError:
    """Return the error for an invalid value; the hint begins with a capital."""
    context = {"message": message, "hint": hint[:1].upper() + hint[1:], "below": below}
    return PydanticCustomError("bake", "{message}", context)


@dataclass(frozen=True)
class Described(AfterValidator):
    """A validator whose `keywords` describe the valid values in JSON Schema."""

    keywords: Callable[[], dict[str, Any]]

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core), **self.keywords()}


class NameOrTable(BeforeValidator):
    """A validator that writes a name as the table that it stands for. JSON Schema has both."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(catalog.load().os_images)}, handler(core)]}


def known(what: str, names: Callable[[], Iterable[str]]) -> AfterValidator:
    """Accept only these names; `names` is called when a value is checked."""

    def check(value: str) -> str:
        known_names = list(names())
        if value not in known_names:
            raise invalid_value(f"unknown {what}: {value}", nearest(value, known_names))
        return value

    return Described(check, lambda: {"enum": list(names())})


def _installs(value: str) -> str:
    """Refuse the suffix with which apt removes a package or, for a version, chooses another one."""
    if value.endswith("-") or ("=" in value and value.endswith("+")):
        hint = f"Write {value.rstrip('-+')} to install it; a recipe cannot remove a package"
        raise invalid_value(f"{value!r} ends with {value[-1]!r}, which is a command of apt", hint)
    return value


def matching(pattern: str, what: str, example: str) -> AfterValidator:
    """Accept only values that match the pattern as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise invalid_value(
                f"{value!r} is not a valid {what}", f"Write something like {example}"
            )
        return value

    return Described(check, lambda: {"pattern": f"^(?:{pattern})$"})


def _without_duplicates(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise invalid_value(f"named more than once: {', '.join(twice)}", "Name each only once")
    return values


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise invalid_value("is empty", "Name at least one")
    return values


def _not_a_number(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise invalid_value(
            f"{value} is a number, and 10.10 as a number is {10.10}",
            f'Write the version in quotes: "{value}"',
        )
    return value


def _requirement(value: str) -> str:
    try:
        url = Requirement(value).url
    except (InvalidRequirement, RecursionError) as error:
        reason = str(error).splitlines()[0]
        message = f"{value!r} is not a pip requirement: {reason}"
        raise invalid_value(message, 'Write something like "scipy==1.10.1"') from None
    if url is not None:
        _refuse_unsafe_url(url)
    return value


def _refuse_unsafe_url(url: str) -> None:
    """Refuse a download without TLS or with credentials.

    The message omits a URL with credentials, because a message is logged. pip replaces `${NAME}` in
    a URL, which is another way to write them.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid_value(
            "its URL is not valid", "Write something like https://host/x.whl"
        ) from None
    if "@" in parts.netloc or "${" in url:
        hint = "Leave out user and password: a recipe, a log and the image would contain them"
        raise invalid_value("its URL has a user, a password or a variable", hint)
    if parts.scheme.rpartition("+")[2] not in ("https", "file"):
        raise invalid_value(f"{url} does not use TLS", "Use an https:// or git+https:// address")


def _printable(value: str) -> str:
    """Accept one line of visible text.

    A newline would end an entry in a list of requirements. A character that changes the direction
    of writing would hide the real text from the reader.
    """
    if any(unicodedata.category(c) in _INVISIBLE or c in _BIDIRECTIONAL for c in value):
        raise invalid_value(f"{value!r} has a control character", "Leave it out")
    return value


def _ascii(value: str) -> str:
    if not value.isascii():
        character = next(c for c in value if not c.isascii())
        raise invalid_value(
            f"has the character {character!r}",
            "Use ASCII characters only: EC2 accepts no other characters in this value",
        )
    return value


def _tag_key(key: str) -> str:
    if not 1 <= len(key) <= 128:
        raise invalid_value(f"a key of {len(key)} characters", "EC2 allows 1 to 128")
    if key.lower().startswith("aws:"):
        raise invalid_value("begins with aws:", "Choose another prefix: AWS reserves this one")
    if key.lower().startswith("bake:"):
        raise invalid_value(
            "begins with bake:", "Choose another prefix: bake uses this one for its own tags"
        )
    return key


def _tag_value(value: str) -> str:
    if len(value) > 256:
        raise invalid_value(f"a value of {len(value)} characters", "EC2 allows up to 256")
    return value


def _over_tls(mirrors: dict[str, str]) -> dict[str, str]:
    for name, url in mirrors.items():
        if name not in SIGNED and not url.startswith("https://"):
            message = f"{url} does not use TLS"
            raise invalid_value(message, f"only {', '.join(SIGNED)} may use plain HTTP", below=name)
    return mirrors


def _secret_name(name: str) -> str:
    if not is_free(name):
        message = f"{name!r} cannot be the name of a secret"
        hint = "Use capitals, digits and underscores, and no name that the shell uses"
        raise invalid_value(message, hint)
    return name


def _secret_location(pattern: str, what: str, example: str) -> AfterValidator:
    """Accept only values that match the pattern as a whole.

    The message omits the value, because it may be the secret itself.
    """
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            hint = f"Write something like {example}; a secret itself has no place in a recipe"
            raise invalid_value(f"is not a valid {what}", hint)
        return value

    return Described(check, lambda: {"pattern": f"^(?:{pattern})$"})


def _input_name(name: str) -> str:
    if not is_free(name):
        message = f"{name!r} cannot be the name of an input"
        hint = "Use capitals, digits and underscores, and no name that the shell uses"
        raise invalid_value(message, hint)
    return name


def _input_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        shown = "it" if isinstance(value, dict | list) else repr(value)
        raise invalid_value(f"{shown} is not text", 'Write it in quotes: "value"')
    return str(value)


Distinct = Described(_without_duplicates, lambda: {"uniqueItems": True})
NotEmpty = Described(_not_empty, lambda: {"minItems": 1})
Printable = AfterValidator(_printable)
Ascii = AfterValidator(_ascii)

Version = Annotated[
    str, BeforeValidator(_not_a_number), matching(VERSION.pattern, "version", '"10.1"')
]
Name = Annotated[
    str, matching(r"[a-z0-9][a-z0-9-]{0,62}", "name", "mxnet-cu101: a-z, digits and hyphens")
]
Region = Annotated[str, matching(r"[a-z]{2,}(-[a-z]+)+-\d+", "region", "us-west-2")]
OsKey = Annotated[str, known("operating system", lambda: catalog.load().os_images)]
# EC2 says which types exist: AWS adds some each month.
InstanceTypeName = Annotated[
    str, matching(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", "instance type", "g4dn.xlarge")
]
AmiId = Annotated[str, matching(r"ami-[0-9a-f]{8,17}", "AMI id", "ami-0123456789abcdef0")]
# DescribeImages, `Owners`
ImageOwner = Annotated[str, matching(r"[0-9]{12}|amazon|self", "owner", '"099720109477"')]
ImagePattern = Annotated[str, Printable, Field(min_length=1, max_length=128)]
UserName = Annotated[str, matching(r"[a-z_][a-z0-9_-]{0,31}", "user name", "ubuntu")]
# A public parameter of AWS or Canonical, or one's own (GetParameter, `Name`)
ImageParameter = Annotated[
    str,
    Field(max_length=2048),
    matching(
        r"(arn:[\w-]+:ssm:[\w-]*:\d{12}:parameter)?/?[\w.-]+(/[\w.-]+)*(:[\w.-]+)?",
        "name of an SSM parameter",
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    ),
]
InputName = Annotated[str, AfterValidator(_input_name)]
InputValue = Annotated[str, BeforeValidator(_input_value), Printable]
Environment = Annotated[str, matching(r"[a-z][a-z0-9_-]{0,31}", "environment's name", "d2l")]

# Package names become arguments of tools, so none may look like an option or contain a blank.
DnfPackage = Annotated[
    str,
    Field(max_length=255),
    matching(
        r"[A-Za-z0-9][A-Za-z0-9+._-]*(=[\w.~^:-]+)?",
        "name of a dnf package",
        "htop or htop=3.3.0-1",
    ),
]
AptPackage = Annotated[
    str,
    matching(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?(=[\w.+:~-]+)?", "apt package", "htop=3.0.5-7"),
    AfterValidator(_installs),
]
CondaPackage = Annotated[
    str, matching(r"\w[\w.-]*([=<>!~][\w.*+=<>!~,|-]*)?", "conda package", "scipy=1.10")
]
PipPackage = Annotated[str, Printable, AfterValidator(_requirement)]

_Mirror = Annotated[str, known("mirror", lambda: UPSTREAM.mirrors)]
# Without user and password, because a mirror's URL is written to logs and to the image.
_Url = Annotated[
    str,
    Printable,
    matching(r"https?://[^\s/?#@]+(/[^\s?#]*)?", "base URL", "https://mirror.example.org/pypi"),
]
_TagKey = Annotated[str, Printable, AfterValidator(_tag_key)]
_TagValue = Annotated[str, Printable, AfterValidator(_tag_value)]

SecretName = Annotated[str, AfterValidator(_secret_name)]
VariableName = Annotated[
    str, _secret_location(r"[A-Za-z_]\w*", "name of an environment variable", "WANDB_API_KEY")
]
# A version or a label may follow (GetParameter, `Name`).
ParameterName = Annotated[
    str,
    Field(max_length=2048),
    _secret_location(
        r"(arn:[\w-]+:ssm:[\w-]+:\d{12}:parameter)?/?[\w.-]+(/[\w.-]+)*(:[\w.-]+)?",
        "name of an SSM parameter",
        "/team/wandb-key",
    ),
]
# CreateSecret, `Name`; or an ARN.
SecretId = Annotated[
    str,
    Field(max_length=2048),
    _secret_location(r"[\w/+=.@:-]+", "name or ARN of a secret", "team/wandb"),
]

Mirrors = Annotated[dict[_Mirror, _Url], AfterValidator(_over_tls)]
Tags = Annotated[
    dict[_TagKey, _TagValue], Field(max_length=MAX_TAGS, description=f"at most {MAX_TAGS}")
]
