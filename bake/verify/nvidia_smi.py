"""The state of the GPUs as `nvidia-smi -q -x` reports it, parsed into values.

Its XML has the document type v11 (drivers up to 525), v12 or v13. Elements are added, removed and
renamed. A value that a driver does not support is "N/A". If it failed to read a value, the name of
an error replaces the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException, ElementTree, EntitiesForbidden

from bake.errors import VerificationError
from bake.verify.diagnosis import verbatim

COMMAND = "nvidia-smi -q -x"
NO_GPU = "No devices were found"

_ERROR = re.compile(
    r"\[?(ERR!|Unknown Error|GPU is lost|GPU requires reset|Error|Insufficient Permissions)\]?",
    re.IGNORECASE,
)
# While a GPU is divided (MIG), only root may read its memory and its errors.
_HIDDEN = "insufficient permissions"
# A GPU that answers one query in this way answers none: which element it is, does not matter.
_LOST = {"gpu is lost", "gpu requires reset"}
# A GPU is unusable if one of these cannot be read. Other elements may be unreadable on a healthy
# GPU: its fan, or a value that an older driver does not know (MIG on 418).
_VITAL = (
    "product_name",
    "uuid",
    "fb_memory_usage/total",
    "performance_state",
    "temperature/gpu_temp",
)
_SWITCH = {"Enabled": True, "Disabled": False}
_ABSENT = (
    *("", "N/A", "[N/A]", "None", "[Not Supported]", "Not Supported"),
    "Requested functionality has been deprecated",
)
# The values of `fabric/health` that name a problem. "True" is good only for the partition.
_UNHEALTHY = {"Unhealthy", "Limited Capacity", "Degraded", "True", "Yes"}
_FABRIC_HEALTH = (
    *("summary", "bandwidth", "route_unhealthy"),
    *("route_recovery_in_progress", "access_timeout_recovery"),
)


@dataclass(frozen=True)
class GpuState:
    """The state of one GPU. None stands for a value that the driver does not report.

    `persistence`: persistence mode is on. `errors` maps the path of each element that contains an
    error in place of a value to the error; `uncorrectable` is the number of memory errors since the
    driver was loaded that could not be corrected; `flags` are the names of the elements that are
    "Yes"; `recovery` is the action that the driver requests (such as reset or reboot); `fabric` is
    the state of the NVSwitch fabric, and `fabric_problems` are the problems that it reports.
    """

    index: int
    uuid: str
    name: str
    bus_id: str
    memory_mib: int | None
    driver_version: str
    mig: bool = False
    persistence: bool | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    uncorrectable: int = 0
    flags: frozenset[str] = frozenset()
    recovery: str | None = None
    fabric: str | None = None
    fabric_problems: tuple[str, ...] = ()

    @property
    def faulty(self) -> bool:
        """True if an element cannot be read that every healthy GPU has, or if the GPU is lost."""
        return any(
            path in _VITAL or error.strip("[]").lower() in _LOST
            for path, error in self.errors.items()
        )


@dataclass(frozen=True)
class SmiReport:
    """One report. `driver_version` is the kernel module's; `messages` stood around the XML."""

    driver_version: str
    cuda_version: str | None
    gpus: tuple[GpuState, ...]
    messages: str = ""


def parse(text: str) -> SmiReport:
    """Parse the output of `nvidia-smi -q -x`.

    VerificationError if it contains no XML document, or one that is cut off or hostile.
    """
    start = re.search(r"<\?xml|<!DOCTYPE|<nvidia_smi_log", text)
    if start is None:
        raise VerificationError("nvidia-smi printed no XML", details=[verbatim(text)])
    messages, document = text[: start.start()].strip(), text[start.start() :]
    # Newer versions print a warning after the document, for example about a board's infoROM.
    body, end, tail = document.partition("</nvidia_smi_log>")
    root = _tree(body + end)
    messages = f"{messages}\n{tail.strip()}".strip()
    if root.tag != "nvidia_smi_log":
        raise VerificationError(f"nvidia-smi printed an XML document of the type {root.tag}")
    # Driver 610 renamed both in its text output (kernel-mode driver, user-mode driver), and added a
    # note to the old names. We infer that its XML has the new names, too.
    driver = _version(_text(root, "kmd_version")) or _version(_text(root, "driver_version"))
    cuda = _version(_text(root, "cuda_umd_version")) or _version(_text(root, "cuda_version"))
    if driver is None:
        raise VerificationError(
            "nvidia-smi does not report the driver's version", details=[messages]
        )
    gpus = tuple(_gpu(index, gpu, driver) for index, gpu in enumerate(root.findall("gpu")))
    return SmiReport(driver, cuda, gpus, messages)


def _tree(document: str) -> Element:
    """Return the document as a tree; VerificationError if it cannot be parsed or is hostile.

    nvidia-smi names a DTD, which is not fetched. Entities are refused. The parser gets text, so an
    encoding that the document declares has no effect.
    """
    text = document.encode("utf-8", "replace").decode()
    try:
        return ElementTree.fromstring(text, forbid_dtd=False, forbid_external=True)
    except EntitiesForbidden as error:
        reason = f"it declares the entity {error.name}"
    except (ElementTree.ParseError, DefusedXmlException) as error:
        reason = str(error)
    raise VerificationError(
        f"Cannot parse the XML that nvidia-smi printed: {reason}", details=[verbatim(document)]
    )


def _gpu(index: int, gpu: Element, driver: str) -> GpuState:
    texts = dict(_leaves(gpu))
    mig = _text(gpu, "mig_mode/current_mig") == "Enabled"
    errors = {path: text for path, text in texts.items() if _ERROR.fullmatch(text)}
    if mig:
        errors = {path: text for path, text in errors.items() if _HIDDEN not in text.lower()}
    recovery = _value(gpu, "gpu_recovery_action")
    fabric = " ".join(filter(None, (_value(gpu, "fabric/state"), _value(gpu, "fabric/status"))))
    health = {name: _text(gpu, f"fabric/health/{name}") for name in _FABRIC_HEALTH}
    return GpuState(
        index=index,
        uuid=_text(gpu, "uuid"),
        name=_text(gpu, "product_name"),
        bus_id=_text(gpu, "pci/pci_bus_id") or gpu.get("id", ""),
        memory_mib=_number(_text(gpu, "fb_memory_usage/total")),
        driver_version=driver,
        mig=mig,
        persistence=_SWITCH.get(_text(gpu, "persistence_mode")),
        errors=errors,
        uncorrectable=_uncorrectable(gpu),
        flags=frozenset(path.rpartition("/")[2] for path, text in texts.items() if text == "Yes"),
        recovery=None if recovery and _ERROR.fullmatch(recovery) else recovery,
        fabric=fabric or None,
        fabric_problems=tuple(f"{n}: {text}" for n, text in health.items() if text in _UNHEALTHY),
    )


def _leaves(element: Element) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each element that has a text, without recursion."""
    pending = [(element, "")]
    while pending:
        parent, parent_path = pending.pop()
        for child in parent:
            path = f"{parent_path}/{child.tag}" if parent_path else child.tag
            if text := (child.text or "").strip():
                yield path, text
            pending.append((child, path))


def _uncorrectable(gpu: Element) -> int:
    """Return the number of uncorrectable memory errors since the driver was loaded.

    The elements are named sram_uncorrectable and similar from Ampere on, before that
    double_bit/total.
    """
    errors = gpu.find("ecc_errors/volatile")
    if errors is None:
        return 0
    newer = [child for child in errors if "uncorrectable" in child.tag]
    counts = [child.text or "" for child in newer] or [_text(errors, "double_bit/total")]
    return sum(_number(count) or 0 for count in counts)


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _value(element: Element, path: str) -> str | None:
    text = _text(element, path)
    return None if text in _ABSENT else text


def _version(text: str) -> str | None:
    match = re.match(r"\d{1,9}(\.\d{1,9})+", text)
    return match.group() if match else None


def _number(text: str) -> int | None:
    match = re.match(r"\d{1,12}\b", text)
    return int(match.group()) if match else None
