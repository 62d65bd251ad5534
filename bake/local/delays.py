"""How long EC2 takes where the local cloud does not: a profile, off unless it is asked for."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from bake.errors import LocalCloudError

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Delays:
    """Seconds, each counted from the call that it delays, unless said otherwise."""

    name: str = ""
    api_s: float = 0  # each call, before it is looked at
    pending_s: float = 0  # RunInstances and StartInstances, until running
    boot_s: float = 0  # from running, until the machine begins to boot
    stop_s: float = 0  # at least, in stopping
    terminate_s: float = 0  # at least, in shutting-down
    snapshot_s: float = 0  # at least, until completed
    snapshot_s_per_gb: float = 0  # for each 10^9 bytes that the volume's last snapshot has not
    snapshot_interval_s: float = 0  # between two snapshots of a volume
    create_image_s: float = 0  # from the snapshot's completion, until the image is available
    register_image_s: float = 0  # until available

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it then; at once, and in this thread, when that is now or was before."""
        if seconds <= 0:
            call()
            return
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()


NONE = Delays()


def load(profile: str) -> Delays:
    """The profile of that name (`ec2`), or in that file. Raises LocalCloudError: what is wrong.

    Its `scale` is what each of its values is multiplied with.
    """
    if not profile:
        return NONE
    path = Path(profile)
    if not path.suffix:
        path = PROFILES / f"{profile}.toml"
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        known = ", ".join(sorted(each.stem for each in PROFILES.glob("*.toml")))
        raise LocalCloudError(
            f"The profile {profile} cannot be read: {error}", hint=f"Name a TOML file, or: {known}"
        ) from error
    scale = values.pop("scale", 1)
    known_names = {each.name for each in fields(Delays)} - {"name"}
    for name, value in {**values, "scale": scale}.items():
        if name not in known_names | {"scale"}:
            raise LocalCloudError(
                f"{path}: there is no delay {name}", hint=f"There are: {', '.join(known_names)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e5:
            raise LocalCloudError(f"{path}: {name} is not a number of seconds: {value!r}")
    return Delays(profile, **{name: float(value * scale) for name, value in values.items()})
