"""One parser under libFuzzer, by atheris: `python coverage_fuzzer.py PARSER [libFuzzer's options]`.

Inputs are changed where they reach new code, so that it comes deeper than a value at random does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bake"]):
    from bake.aws import lease_holder, parameter, tags
    from bake.errors import BakeError
    from bake.plan import description, lock, script
    from bake.recipe import recipes
    from bake.recipe.project import built_in
    from bake.record import record
    from bake.verify import hardware, inventory, nvidia_smi, tensors

FOLDER = Path(tempfile.mkdtemp())


def of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = FOLDER / name

    def work(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return work


def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", "replace"))


def tag_values(text: str) -> None:
    time = tags.moment(text)
    if time is not None and tags.moment(tags.rfc3339(time)) is None:
        raise AssertionError(text)
    tags.write_seconds(tags.read_seconds(text))
    str(lease_holder.read(text))
    parameter.decode(text)
    description.read({"bake:plan:0": text})


PARSERS: dict[str, Callable[[bytes], object]] = {
    "recipe": of_file("some.toml", lambda path: recipes.load(path, built_in())),
    "header": of_file("some.sh", script.read_script),
    "lock": of_file("some.lock", lambda path: lock.read(path, "mxnet-cu101")),
    "record": of_file("record.json", record.read),
    "tags": of_text(tag_values),
    "nvidia-smi": of_text(nvidia_smi.parse),
    "hardware": of_text(hardware.parse),
    "tensors": of_text(tensors.read),
    "packages": of_text(lambda text: (inventory.parse_dpkg(text), inventory.parse_packages(text))),
}
# These say so themselves that they raise it.
ALLOWED = {"record": (ValueError,), "tensors": (ValueError,)}


def main() -> None:
    name = sys.argv.pop(1)
    work, allowed = PARSERS[name], ALLOWED.get(name, ())

    def one(data: bytes) -> None:
        try:
            work(data)
        except (BakeError, *allowed):
            pass

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
