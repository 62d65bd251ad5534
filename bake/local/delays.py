"""Delays that imitate EC2, read from a profile. Without a profile nothing is delayed."""

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
    """Delays in seconds, each counted from the API call, except where a comment differs."""

    name: str = ""
    api_s: float = 0  # each call, before it is processed
    pending_s: float = 0  # RunInstances and StartInstances, until running
    boot_s: float = 0  # from running, until the machine begins to boot
    stop_s: float = 0  # at least, in the state stopping
    terminate_s: float = 0  # at least, in the state shutting-down
    snapshot_s: float = 0  # at least, until completed
    snapshot_s_per_gb: float = 0  # per 10^9 bytes written since the volume's last snapshot
    snapshot_interval_s: float = 0  # between two snapshots of a volume
    create_image_s: float = 0  # from the snapshot's completion, until the image is available
    register_image_s: float = 0  # until available

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` after `seconds`; at once and in this thread if `seconds` <= 0."""
        if seconds <= 0:
            call()
            return
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()


NONE = Delays()


def load(profile: str) -> Delays:
    """Read the profile with that name (`ec2`), or from that file.

    Each value is multiplied by the profile's `scale`. Raises LocalCloudError for an invalid
    profile.
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
            f"The profile {profile} cannot be read: {error}",
            hint=f"Give the path of a TOML file, or one of: {known}",
        ) from error
    scale = values.pop("scale", 1)
    known_names = {each.name for each in fields(Delays)} - {"name"}
    for name, value in {**values, "scale": scale}.items():
        if name not in known_names | {"scale"}:
            raise LocalCloudError(
                f"{path}: unknown delay {name}",
                hint=f"Known delays: {', '.join(sorted(known_names))}",
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e5:
            raise LocalCloudError(f"{path}: invalid number for {name}: {value!r}")
    return Delays(profile, **{name: float(value * scale) for name, value in values.items()})
