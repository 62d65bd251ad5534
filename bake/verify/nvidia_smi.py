"""What nvidia-smi says of the GPUs, read as data: `nvidia-smi -q -x`.

Its XML has been of the types v11 (drivers to 525), v12 and v13. Elements come, go and are renamed;
what a driver does not have reads as "N/A", and what it could not find out as an error's name in the
place of the value.
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
# Without these no GPU is of use. Others may fail on a sound one: its fan, or what an older driver
# does not have and a newer nvidia-smi asks for, as it is with MIG on 418.
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
    """One GPU. What the driver does not say is None.

    `errors` are the elements (by path) that hold an error in the place of a value; `uncorrectable`
    are memory errors since the driver was loaded; `recovery` is what the driver asks for (reset,
    reboot …); `fabric` is how far NVSwitch's fabric has come.
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
        """Whether something is unreadable that can be read of every sound GPU."""
        return any(path in _VITAL for path in self.errors)


@dataclass(frozen=True)
class SmiReport:
    """`driver_version` is the kernel module's; `messages` is what stood before the document."""

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
        raise VerificationError(f"nvidia-smi wrote a document of the type {root.tag}")
    # 610 renamed both in its text (kernel-mode driver, user-mode driver), with a word about it
    # behind the old ones; that the XML is renamed alike is inferred.
    driver = _version(_text(root, "kmd_version")) or _version(_text(root, "driver_version"))
    cuda = _version(_text(root, "cuda_umd_version")) or _version(_text(root, "cuda_version"))
    if driver is None:
        raise VerificationError("nvidia-smi does not say which driver it is", details=[messages])
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
    """Paths of the elements whose whole text is an error; iterative, whatever the depth."""
    waiting = [(element, path)]
    while waiting:
        parent, above = waiting.pop()
        for child in parent:
            here = f"{above}/{child.tag}" if above else child.tag
            if _ERROR.fullmatch((child.text or "").strip()):
                yield here
            waiting.append((child, here))


def _uncorrectable(gpu: Element) -> int:
    """In every wording: sram_uncorrectable and the like from Ampere on, double_bit/total before."""
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
