"""The state of the GPUs as `nvidia-smi -q -x` reports it, parsed into values.

Its XML has the document type v11 (drivers up to 525), v12 or v13. Elements are added, removed and
renamed. A value that a driver does not support is "N/A". If it failed to read a value, the name of
an error replaces the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
# A GPU is unusable if one of these cannot be read. Other elements may be unreadable on a healthy
# GPU: its fan, or a value that an older driver does not know (MIG on 418).
_VITAL = (
    "product_name",
    "uuid",
    "fb_memory_usage/total",
    "performance_state",
    "temperature/gpu_temp",
)
_ABSENT = ("", "N/A", "[N/A]", "None", "[Not Supported]", "Not Supported")


@dataclass(frozen=True)
class GpuState:
    """The state of one GPU. None stands for a value that the driver does not report.

    `errors` are the paths of the elements that contain an error in place of a value;
    `uncorrectable` is the number of memory errors since the driver was loaded that could not be
    corrected; `recovery` is the action that the driver requests (such as reset or reboot); `fabric`
    is the state of the NVSwitch fabric.
    """

    index: int
    uuid: str
    name: str
    bus_id: str
    memory_mib: int | None
    driver_version: str
    mig: bool = False
    errors: tuple[str, ...] = ()
    uncorrectable: int = 0
    remap_failed: bool = False
    remap_pending: bool = False
    recovery: str | None = None
    fabric: str | None = None

    @property
    def faulty(self) -> bool:
        """True if an element cannot be read that every healthy GPU has."""
        return any(path in _VITAL for path in self.errors)


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
    recovery = _value(gpu, "gpu_recovery_action")
    fabric = " ".join(filter(None, (_value(gpu, "fabric/state"), _value(gpu, "fabric/status"))))
    return GpuState(
        index=index,
        uuid=_text(gpu, "uuid"),
        name=_text(gpu, "product_name"),
        bus_id=_text(gpu, "pci/pci_bus_id") or gpu.get("id", ""),
        memory_mib=_number(_text(gpu, "fb_memory_usage/total")),
        driver_version=driver,
        mig=_text(gpu, "mig_mode/current_mig") == "Enabled",
        errors=tuple(dict.fromkeys(_errors(gpu))),
        uncorrectable=_uncorrectable(gpu),
        remap_failed=_text(gpu, "remapped_rows/remapped_row_failure") == "Yes",
        remap_pending="Yes"
        in (
            _text(gpu, "remapped_rows/remapped_row_pending"),
            _text(gpu, "retired_pages/pending_retirement"),
            _text(gpu, "retired_pages/pending_blacklist"),
        ),
        recovery=recovery,
        fabric=fabric or None,
    )


def _errors(element: Element, path: str = "") -> Iterator[str]:
    """Yield the path of each element whose text is an error, without recursion."""
    pending = [(element, path)]
    while pending:
        parent, parent_path = pending.pop()
        for child in parent:
            child_path = f"{parent_path}/{child.tag}" if parent_path else child.tag
            if _ERROR.fullmatch((child.text or "").strip()):
                yield child_path
            pending.append((child, child_path))


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
