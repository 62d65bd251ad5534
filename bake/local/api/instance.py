"""An instance with a machine behind it: its EC2 state follows the state of the machine.

An API call only queues slow work, which the instance's single worker does in the order of the
calls. So a snapshot that was requested before a termination is taken before it.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any

from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, StateReason

from bake.errors import LocalCloudError
from bake.local.machines import metadata
from bake.local.machines.machine import Ending, LocalMachine, Seed
from bake.local.site import Site

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
# The states in which an instance can be changed; in the others EC2 refuses it.
_CHANGEABLE = {
    "started": ("stopped", "pending", "running"),
    "stopped": ("pending", "running", "stopping", "stopped"),
    "rebooted": ("pending", "running"),
    "terminated": tuple(_CODES),
}
_BY_USER = ("Client.UserInitiatedShutdown", "User initiated shutdown", "User initiated")
_BY_MARKET = ("Server.SpotInstanceTermination", "Spot instance termination", "Service initiated")
_BY_ITSELF = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown", "")

SSH_TIMEOUT_S = 300
CONSOLE_SHOWN_BYTES = 4096

# "Terminated instances remain visible after termination for a while": about an hour at EC2.
TERMINATED_SHOWN = timedelta(hours=1)


class LocalInstance(Instance):  # type: ignore[misc]
    """moto's instance, with a machine that boots, stops and ends."""

    site: Site
    machine: LocalMachine
    spot_instance_request_id: str | None = None
    terminated_at: datetime | None = None
    has_public_address: bool = True
    capacity_reservation_id: str | None = None
    interrupted_at: datetime | None = None  # set with the notice: the time of its end

    def claim_machine(self, site: Site) -> None:
        """Reserve a machine and its address. Raises LocalCloudError if no address is free."""
        self.site = site
        self.machine = site.new_machine(self.id)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=self.id)
        self._boots = 0
        self._reachable = False
        self._called_off = threading.Event()
        self._show("pending")

    def power_up(self, layer: str) -> None:
        """Start the machine for the first time."""
        self._worker.submit(self._create, layer)

    def fail_to_launch(self, reason: tuple[str, str, str]) -> None:
        """Terminate the instance without starting its machine."""
        self._worker.submit(self._terminate, reason)

    # Requests of the API -------------------------------------------------------------------

    def check_can_be(self, changed: str) -> None:
        """Raise IncorrectInstanceState if it cannot be started, stopped, rebooted … now."""
        if self.state not in _CHANGEABLE[changed]:
            raise EC2ClientError(
                "IncorrectInstanceState",
                f"The instance '{self.id}' is not in a state from which it can be {changed}.",
            )

    def start(self) -> None:
        self.check_can_be("started")
        if self.state == "stopped":
            self.launch_time = utcnow()
            self._called_off.clear()
            self._show("pending")
            self._worker.submit(self._boot, self.machine.boot)

    def stop(self, *, force: bool = False) -> None:
        self.check_can_be("stopped")
        if self.state in ("pending", "running"):
            self._show("stopping", _BY_USER)
            self._called_off.set()
            self._worker.submit(self._stop, force)
        elif self.state == "stopping" and force:
            self.machine.unplug()

    def reboot(self) -> None:
        self.check_can_be("rebooted")
        self._worker.submit(self._power_cycle, lambda: None)

    def terminate(self) -> None:
        if self.state not in ("shutting-down", "terminated"):
            self._show("shutting-down", _BY_USER)
            self._called_off.set()
            self._worker.submit(self._terminate, _BY_USER)

    def interrupt(self, after_s: float) -> datetime:
        """Interrupt a spot machine as the spot market does. Return the time of its end.

        Raises LocalCloudError if it is not a running spot machine, or was interrupted before.
        """
        if self.lifecycle != "spot" or self.state != "running" or self.interrupted_at:
            raise LocalCloudError(
                f"{self.id} cannot be interrupted: it is not a running spot machine, "
                "or was interrupted before"
            )
        self.interrupted_at = utcnow() + timedelta(seconds=after_s)
        timer = threading.Timer(after_s, self._end_interrupted)
        timer.daemon = True
        timer.start()
        return self.interrupted_at

    def _end_interrupted(self) -> None:
        with self.site.lock:
            if self.state in ("pending", "running"):
                self._show("shutting-down", _BY_MARKET)
                self._called_off.set()
                self._worker.submit(self._terminate, _BY_MARKET)

    def set_user_data(self, data: bytes) -> None:
        """Set the user data that the machine reads from its next boot on."""
        self.user_data = Base64EncodedString.from_encoded_bytes(base64.b64encode(data))
        self.machine.set_user_data(data)

    def keep_disk(self, work: Callable[[], None], *, reboot: bool) -> None:
        """Queue `work`, which reads the disk; with `reboot`, while a running machine is off."""
        if reboot and self.state == "running":
            self._worker.submit(self._power_cycle, work)
        else:
            self._worker.submit(work)

    def console(self) -> bytes:
        with self.site.lock_released():
            return self.machine.console()

    def is_long_gone(self) -> bool:
        return self.terminated_at is not None and utcnow() - self.terminated_at > TERMINATED_SHOWN

    # The worker --------------------------------------------------------------------

    def _create(self, layer: str) -> None:
        key = self.ec2_backend.key_pairs.get(self.key_name)
        seed = Seed(
            instance_id=self.id,
            hostname=self.private_dns_name.split(".")[0],
            public_key=key.public_key.strip() if key else "",
            user_data=self._given_user_data(),
        )
        create = functools.partial(self.machine.create, layer, seed, self.site.inherited())
        if self.site.delays.boot_s:
            self._boot(self.machine.boot, lambda: create(boot=False))
        else:
            self._boot(create)

    def _given_user_data(self) -> bytes:
        return base64.b64decode(str(self.user_data)) if self.user_data else b""

    def _boot(self, start: Callable[[], None], prepare: Callable[[], None] = lambda: None) -> None:
        """Call `prepare` in the state pending, then `start` after the profile's delays."""
        try:
            prepare()
            if self.state == "pending":
                self._called_off.wait(self._left(self.site.delays.pending_s))
            if self.site.delays.boot_s:
                self._show_running()
                self._called_off.wait(self.site.delays.boot_s)
            if self.state != "shutting-down":
                start()
        except Exception as error:
            log.exception("%s does not start", self.id)
            self._terminate(("Server.InternalError", f"Server error on launch: {error}", ""))
            return
        self._boots += 1
        self._show_running()
        threading.Thread(target=self._watch, args=(self._boots,), daemon=True).start()
        threading.Thread(target=self._wait_for_ssh, args=(self._boots,), daemon=True).start()

    def _show_running(self) -> None:
        with self.site.lock:
            if self.state == "pending":
                self._show("running")

    def _left(self, delay_s: float) -> float:
        """Return the rest of a delay that began with the present state, in seconds."""
        return max(0.0, self._shown_at + delay_s - time.monotonic())

    def _stop(self, force: bool) -> None:
        self._switch_off(force)
        time.sleep(self._left(self.site.delays.stop_s))
        with self.site.lock:
            if self.state == "stopping":
                self._show("stopped", _BY_USER)

    def _power_cycle(self, at_rest: Any) -> None:
        if self.state != "running":
            return
        self._switch_off(False)
        at_rest()
        self._boot(self.machine.boot)

    def _switch_off(self, force: bool) -> None:
        self._boots += 1  # so `_watch` ignores the machine's end
        self._reachable = False
        try:
            if force:
                self.machine.unplug()
            else:
                self.machine.power_off()
        except LocalCloudError:
            log.exception("%s does not stop", self.id)

    def _terminate(self, reason: tuple[str, str, str]) -> None:
        self._boots += 1
        try:
            self.machine.remove()
        except (LocalCloudError, OSError):
            log.exception("%s is not removed", self.id)
        if self.state == "shutting-down":
            time.sleep(self._left(self.site.delays.terminate_s))
        with self.site.lock:
            self.site.machines.pop(self.id, None)
            super().terminate()
            self._show("terminated", reason)
            self.terminated_at = utcnow()
        self.site.prune()
        self._worker.shutdown(wait=False)

    # Events of the machine ---------------------------------------------------------

    def _watch(self, boot: int) -> None:
        try:
            ending = self.machine.wait_until_ended(self._with_metadata)
        except LocalCloudError:
            return  # it was removed
        with self.site.lock:
            if boot == self._boots and self.state == "running":
                self._worker.submit(self._ended, boot, ending)

    def _ended(self, boot: int, ending: Ending) -> None:
        if boot != self._boots or self.state != "running":
            return
        log.info("%s: %s", self.id, ending.value)
        self._reachable = False
        if ending is Ending.REBOOT:
            self._boot(self.machine.boot)
        elif ending is Ending.BROKEN:
            with self.site.lock:
                self._show("stopped", ("Server.InternalError", "Internal error: it failed", ""))
        elif self.instance_initiated_shutdown_behavior == "terminate":
            with self.site.lock:
                self._show("shutting-down", _BY_ITSELF)
            self._terminate(_BY_ITSELF)
        else:
            with self.site.lock:
                self._show("stopped", _BY_ITSELF)

    def _wait_for_ssh(self, boot: int) -> None:
        answers = self.machine.answers(within_s=SSH_TIMEOUT_S)
        if boot != self._boots:
            return
        self._reachable = answers
        if not answers:
            end = self.machine.console()[-CONSOLE_SHOWN_BYTES:].decode(errors="replace")
            log.warning("%s: no SSH within %d s. Its console:\n%s", self.id, SSH_TIMEOUT_S, end)

    # The metadata of the machine ----------------------------------------------------------------

    def _with_metadata(self, process_id: int) -> AbstractContextManager[None]:
        if self.metadata_options.http_endpoint != "enabled":
            return nullcontext()
        return metadata.served(
            process_id,
            self._metadata,
            tokens_required=lambda: self.metadata_options.http_tokens == "required",
        )

    def _metadata(self) -> dict[str, str | bytes]:
        """Below /latest/, https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html"""
        # The members of "Instance identity documents" (same guide) that bake reads.
        identity = {
            "imageId": str(self.image_id),
            "instanceId": str(self.id),
            "instanceType": str(self.instance_type),
            "pendingTime": f"{self.launch_time:%Y-%m-%dT%H:%M:%SZ}",
            "region": str(self.ec2_backend.region_name),
        }
        items: dict[str, str | bytes] = {
            "dynamic/instance-identity/document": json.dumps(identity, indent=2),
            "meta-data/ami-id": str(self.image_id),
            "meta-data/instance-id": str(self.id),
            "meta-data/instance-life-cycle": self.lifecycle or "on-demand",
            "meta-data/instance-type": str(self.instance_type),
            "meta-data/local-hostname": str(self.private_dns_name),
            "meta-data/placement/availability-zone": str(self.placement.zone),
            "meta-data/placement/region": str(self.ec2_backend.region_name),
        }
        if self.user_data:
            items["user-data"] = self._given_user_data()
        if self.interrupted_at:
            moment = f"{self.interrupted_at:%Y-%m-%dT%H:%M:%SZ}"
            action = json.dumps({"action": "terminate", "time": moment})
            items |= {
                "meta-data/spot/instance-action": action,
                "meta-data/spot/termination-time": moment,
            }
        return items

    # State that the API shows --------------------------------------------------------------------

    def _show(self, state: str, reason: tuple[str, str, str] | None = None) -> None:
        self._state.name, self._state.code = state, _CODES[state]
        self._shown_at = time.monotonic()
        code, message, transition = reason or ("", "", "")
        self.state_reason = StateReason(f"{code}: {message}" if code else "", code)
        self._reason = f"{transition} ({utcnow():%Y-%m-%d %H:%M:%S} GMT)" if transition else ""
        reachable = self.has_public_address and state in ("pending", "running", "stopping")
        address = self.machine.address if reachable else None
        for nic in self.nics.values():
            nic.public_ip = address

    @property
    def reachable(self) -> bool:
        """True if the SSH server has answered since the machine was started."""
        return self._reachable

    @property
    def public_dns_name(self) -> str:
        """An empty name, as in a VPC without DNS host names: clients use the address."""
        return ""

    @property
    def instance_status(self) -> dict[str, Any]:
        """`ok` once its SSH server has answered."""
        if self.state != "running":
            return {"Status": "not-applicable"}
        ok, passed = ("ok", "passed") if self._reachable else ("initializing", "initializing")
        return {"Status": ok, "Details": [{"Name": "reachability", "Status": passed}]}
