"""Machines on which the real stage scripts run, one by one, against stand-in upstreams."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bake.local import standin
from bake.local.machines import os_images
from bake.local.machines.engine import Engine, find_engine
from bake.plan.lock import UNLOCKED
from bake.plan.script import read_script
from bake.plan.variables import variables
from bake.recipe import recipes
from bake.recipe.payload import Payload
from bake.recipe.project import built_in
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
LIB = "/run/bake/lib.sh"


@dataclass(frozen=True)
class Machine:
    engine: Engine
    name: str
    inputs: Mapping[str, str]

    def run(
        self, command: str, *, user: str = "root", stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        home = "/root" if user == "root" else f"/home/{user}"
        arguments = ["exec", "--interactive", "--user", user, "--workdir", home, self.name]
        arguments += ["env", "--ignore-environment", f"HOME={home}", f"USER={user}"]
        arguments += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-c", command]
        done = subprocess.run(self.engine.command(*arguments), input=stdin, capture_output=True)
        out, err = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def read(self, command: str, *, user: str = "root") -> str:
        done = self.run(command, user=user)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def stage(self, name: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a stage with its declared inputs: the recipe's, with some changes."""
        script = read_script(SCRIPTS / "stages" / f"{name}.sh")
        unknown = set(changed) - set(script.inputs)
        assert not unknown, f"{name} has no inputs {unknown}"
        given = {key: self.inputs[key] for key in {*script.inputs} - {"STAGE"}}
        return self.script(script.body.decode(), name, **given | changed)

    def script(
        self, body: str, name: str = "own", **given: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as the stage `name`, without a lock unless the inputs contain one."""
        given = UNLOCKED | {"STAGE": name, "BAKE_LIB": LIB} | given
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in given.items())
        self.run(f"mkdir -p /run/bake; cat > {LIB}", stdin=(SCRIPTS / "lib.sh").read_bytes())
        return self.run(f"{exports}bash -s", stdin=body.encode())

    def bake(self, *names: str, **changed: str) -> str:
        """Run the stages, which must all succeed, and return the last line of each."""
        last = []
        for name in names:
            done = self.stage(name, **changed)
            assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
            last.append(done.stdout.splitlines()[-1])
        return "\n".join(last)


@dataclass(frozen=True)
class LoginShell:
    """The login user's shell on a machine, as `ssh host command` starts it, for the proof."""

    machine: Machine

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        assert not isinstance(stdin, str)
        user = self.machine.inputs["LOGIN_USER"]
        environment = "set -a; . /etc/environment; set +a"  # pam_env reads the file
        done: Any = self.machine.run(f"{environment}; {command}", user=user, stdin=stdin or b"")
        done.exit_status = done.returncode
        return done


def find(name: str) -> Recipe:
    return recipes.find(name, built_in())


@contextmanager
def machines() -> Iterator[Callable[[Recipe, Payload], Machine]]:
    """Yield a function that starts a stand-in machine for a recipe; remove all afterwards."""
    engine = find_engine()
    with ExitStack() as undo:

        def start(recipe: Recipe, payload: Payload) -> Machine:
            resolved = resolve(recipe)
            name = f"bake-test-scripts-{uuid4().hex[:8]}"
            undo.callback(engine.remove, name)
            undo.callback(engine.kill, name)  # it would be asked for ten seconds first
            arguments = ["run", "--detach", "--name", name]
            arguments += [*engine.network_arguments, *engine.limits]
            # Whoever makes another variant forgets this one, until a machine has it.
            with os_images._one_at_a_time():
                root = os_images._variant(
                    engine,
                    os_images._debian(engine, os_images.underneath(resolved.os_image).codename),
                    resolved.os_image,
                    True,
                    standin.machine_files(),
                )
                engine.call(*arguments, root.layer, "sleep", "infinity")
            inputs = variables(resolved, payload)
            machine = Machine(engine, name, inputs)
            user = inputs["LOGIN_USER"]
            machine.read(f"useradd --create-home --shell /bin/bash {user}; mkdir -p /etc/xdg/pip")
            return machine

        yield start
