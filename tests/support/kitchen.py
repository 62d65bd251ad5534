"""Small bakes on real machines, whose stages report to a witness on this computer.

`python kitchen.py FOLDER [RECIPE…]` bakes in a separate process, which a test can kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from bake.aws.client.session import Cloud, connect
from bake.console.console import Console
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.pipeline import bake as pipeline
from bake.pipeline.job import Context
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import SOFTWARE, Recipe, Secret
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY

SCRIPT = """\
#!/usr/bin/env bash
# A stage of a test.
# Needs:  {needs}
# Inputs: {inputs}
# Reboots: {reboots}
# Secrets: {secrets}
# Files: {files}
set -o errexit -o nounset -o pipefail
# ask WORD: reports to the witness, waits for its answer, and fails if the answer is not yes.
ask() {{
    exec 3<>/dev/tcp/{address}/{port}
    echo "$1" >&3
    read -r answer <&3
    [[ $answer == yes ]]
}}
ask '{name} begins'
mkdir --parents /opt/stages
echo '{name}' >/opt/stages/{name}
{body}
ask '{name} ends'
"""


def machines_ever() -> set[str]:
    """Return the ids of all machines, also of terminated ones: EC2 shows them for an hour."""
    pages = boto3.client("ec2").get_paginator("describe_instances").paginate()
    return {i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]}


class Witness:
    """A server to which the stages report.

    `said` are the reports in order. The answer is yes; it is no for a report in `refused`, and one
    in `held` is answered only when it has been taken out.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refused: set[str] = set()
        self.held: set[str] = set()
        self._heard = threading.Condition()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as file:
            word = file.readline().strip()
            with self._heard:
                self.said.append(word)
                self._heard.notify_all()
                self._heard.wait_for(lambda: word not in self.held)
                answer = "no" if word in self.refused else "yes"
            try:
                file.write(f"{answer}\n")
                file.flush()
            except OSError:
                pass  # the machine has terminated meanwhile

    def wait_for(self, word: str, *, timeout_s: float = 60) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: word in self.said, timeout_s), self.said

    def let_go(self, word: str) -> None:
        with self._heard:
            self.held.discard(word)
            self._heard.notify_all()

    def began(self) -> list[str]:
        """Return the stages that were started, in order."""
        return [word.removesuffix(" begins") for word in self.said if word.endswith(" begins")]

    def close(self) -> None:
        self._server.close()
        with self._heard:
            self.held.clear()
            self._heard.notify_all()


class Kitchen:
    """A folder with recipes and their scripts, which can be baked."""

    def __init__(self, folder: Path, witness: Witness, address: str) -> None:
        self.folder = folder
        self.witness = witness
        self.address = address
        self.scripts = folder / "scripts"
        (self.scripts / "stages").mkdir(parents=True, exist_ok=True)
        for real in ("lib.sh", "stages/seal.sh"):
            shutil.copy(REPOSITORY / "scripts" / real, self.scripts / real)

    def stage(
        self,
        name: str,
        needs: str = "",
        body: str = "",
        inputs: str = "",
        *,
        reboots: str = "no",
        secrets: str = "",
        files: str = "",
    ) -> None:
        """Write a stage's script; `body` runs between its two reports."""
        text = SCRIPT.format(
            name=name,
            needs=needs,
            inputs=inputs,
            reboots=reboots,
            secrets=secrets,
            files=files,
            body=body,
            address=self.address,
            port=self.witness.port,
        )
        (self.scripts / "stages" / f"{name}.sh").write_text(text)

    def check(self, name: str, body: str, inputs: str = "") -> None:
        """Write a check's script."""
        path = self.scripts / "checks" / f"{name}.sh"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n# A check.\n# Inputs: {inputs}\n{body}\n")

    def line(self, *names: str) -> None:
        """Write stages of which each needs the one before."""
        for before, name in zip(("", *names), names, strict=False):
            self.stage(name, before)

    def recipe(self, name: str, *stages: str, **changes: object) -> None:
        values = {"stages": [*stages, "seal"], **changes}
        (self.folder / f"{name}.json").write_text(json.dumps(values))

    def requests(self, *names: str) -> list[pipeline.BakeRequest]:
        """Return the requests, for a test that does something else than `bake`."""
        return requests(self.folder, names, cloud=self.cloud)

    def bake(self, *names: str, **options: Any) -> list[pipeline.Outcome]:
        """Bake in this process. Raises the failure if it is one recipe."""
        return bake(self.folder, names, cloud=self.cloud, **options)

    @cached_property
    def cloud(self) -> Cloud:
        """The cloud of a whole test: making clients takes a third of a second."""
        return connect()

    @contextmanager
    def baking(self, *names: str) -> Iterator[subprocess.Popen[str]]:
        """A bake in a separate process, which is killed afterwards if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kitchen", str(self.folder), *names],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def load(folder: Path, name: str) -> Recipe:
    """Return the default recipe, without its software, changed as the file `name` says."""
    whole = recipes.find("mxnet-cu101", built_in())
    values = json.loads((folder / f"{name}.json").read_text())
    checkpoints = {"keep": 8, **values.pop("checkpoints", {})}
    if "after" in checkpoints:
        checkpoints["after"] = tuple(checkpoints["after"])
    builder = values.pop("builder", {})
    packages = {kind: tuple(named) for kind, named in values.pop("packages", {}).items()}
    secrets = {key: Secret(**place) for key, place in values.pop("secrets", {}).items()}
    return whole.model_copy(
        update={
            **dict.fromkeys(SOFTWARE),
            "name": name,
            "gpu": "none",
            "stages": tuple(values.pop("stages")),
            "checkpoints": whole.checkpoints.model_copy(update=checkpoints),
            "builder": whole.builder.model_copy(update=builder),
            "packages": whole.packages.model_copy(update=packages),
            "secrets": secrets,
            **values,
        }
    )


def requests(
    folder: Path,
    names: Sequence[str],
    *,
    console: Console | None = None,
    cloud: Cloud | None = None,
) -> list[pipeline.BakeRequest]:
    context = Context(
        cloud=cloud or connect(),
        payload=replace(UPSTREAM, name="stand-in", image_owner=STAND_IN_OWNER),
        project=Project(folder),
        builds=folder / "builds",
        console=console or Console(),
        ssh_port=int(os.environ["BAKE_SSH_PORT"]),
    )
    return [(context, resolve(load(folder, name))) for name in names]


def bake(
    folder: Path,
    names: Sequence[str],
    *,
    console: Console | None = None,
    cloud: Cloud | None = None,
    **options: Any,
) -> list[pipeline.Outcome]:
    chosen = pipeline.Options(**options)
    found = requests(folder, names, console=console, cloud=cloud)
    if len(found) == 1:
        return [pipeline.bake(*found[0], chosen)]
    return pipeline.bake_all(found, chosen)


if __name__ == "__main__":
    began = time.monotonic()
    for outcome in bake(Path(sys.argv[1]), sys.argv[2:]):
        print(outcome.recipe, outcome.status, outcome.image and outcome.image.image_id)
    print(f"{time.monotonic() - began:.1f} s")
