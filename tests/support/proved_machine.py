"""A machine that answers the proof's commands as a test defines."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bake.verify import Expectation, hardware, system
from tests.support.frameworks import expectation
from tests.support.nvidia_smi import document, gpu
from tests.support.tensor_reports import figures

T4 = (
    "/sys/bus/pci/devices/0000:00:{slot}.0/vendor:0x10de\n"
    "/sys/bus/pci/devices/0000:00:{slot}.0/class:0x030200\n"
    "/sys/bus/pci/devices/0000:00:{slot}.0/device:0x1eb8\n"
)
NO_GPU = (
    "/sys/bus/pci/devices/0000:00:02.0/vendor:0x8086\n"
    "/sys/bus/pci/devices/0000:00:02.0/class:0x030000\n"
)
DRIVER = (
    "module NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 2024\n"
    "module 470.256.02\n"
    "library /usr/lib/x86_64-linux-gnu/libcuda.so.470.256.02\n"
    "library /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.470.256.02\n"
)
LDCONFIG = "\tlibcudart.so.10.1 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.10.1\n"
NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 10.1, V10.1.243\n"


@dataclass
class Machine:
    """A machine whose programs print what a test defines; its shell is a real one.

    `says` maps a program to its output and exit status, or to None if it is missing.
    """

    folder: Path
    probe: str = T4.format(slot="1e") + DRIVER
    kernels: str = "running 5.4.0-1103-aws\nkernel 5.4.0-1103-aws 470.256.02\n"
    lists: tuple[str, ...] = ("archive_dists_bionic_main_binary-amd64_Packages",)
    says: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=figures)
    python: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        healthy = {"nvidia-smi": document(gpu()), "nvcc": NVCC, "ldconfig": LDCONFIG}
        healthy["dpkg-query"] = "ii \thtop\t3.0.5-7\nhi \tlibc6:amd64\t2.36-9\n"
        healthy["apt-get"] = "Reading package lists...\nInst libssl1.1 [1.1.1] (1.1.1w Ubuntu)\n"
        self.says = {**{name: (text, 0) for name, text in healthy.items()}, **self.says}
        self.says.setdefault("sudo", ("", 1))
        self.says.setdefault("dmesg", ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n", 0))

    @property
    def prefix(self) -> Path:
        return self.folder / "envs" / "d2l"

    def expectation(self, **changes: Any) -> Expectation:
        wanted = replace(
            expectation(self.prefix, "mxnet", "1.9.1"),
            gpu="required",
            gpu_model="T4",
            gpu_count=1,
            gpu_memory_mib=16384,
            driver_branch="470",
            cuda_release="10.1",
            python="3.7",
            d2l="0.17.0",
            jupyter=True,
            notebooks=True,
            kernel_held=True,
            apt=("htop",),
        )
        return replace(wanted, **changes)

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        self.commands.append(command)
        if command == hardware._PROBE:
            return subprocess.CompletedProcess([], 0, self.probe, "")
        if command == system.KERNELS:
            return subprocess.CompletedProcess([], 0, self.kernels, "")
        self._write()
        path = f"{self.folder}/bin:/usr/bin:/bin"
        command = command.replace("/sbin/ldconfig", "ldconfig")
        command = command.replace("/var/lib/apt/lists", f"{self.folder}/lists")
        done: Any = subprocess.run(
            ["bash", "-c", command],
            input=stdin,
            capture_output=True,
            env={"PATH": path, "HOME": str(self.folder)},
        )
        done.exit_status = done.returncode
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    def _write(self) -> None:
        for name, said in self.says.items():
            if said:
                self._program(
                    self.folder / "bin" / name, f"cat {self._text(*said)}; exit {said[1]}"
                )
        said = {
            "sys.version_info": f"3.7.16 {self.prefix}",
            "from d2l": "0.17.0",
            "import mxnet": "1.9.1",
            "kernelspec": json.dumps(
                {"kernelspecs": {"d2l": {"spec": {"argv": [f"{self.prefix}/bin/python", "-m"]}}}}
            ),
            "pip list": json.dumps([{"name": "Foo.Bar", "version": "1.5"}]),
            "platform.python_version": "3.7.16",
            **self.python,
        }
        cases = "".join(f"*'{key}'*) cat {self._text(text, 0)} ;;\n" for key, text in said.items())
        tensors = self._text("a warning\n" + json.dumps(self.tensors), 0)
        self._program(
            self.prefix / "bin" / "python",
            f"case \"$*\" in '- mxnet '*) cat >/dev/null; cat {tensors} ;;\n{cases}esac",
        )
        lists = self.folder / "lists"
        lists.mkdir(exist_ok=True)
        for name in self.lists:
            (lists / name).touch()
        notebooks = self.folder / "d2l-en" / "chapter"
        notebooks.mkdir(parents=True, exist_ok=True)
        (notebooks / "ndarray.ipynb").write_text("{}")

    def _text(self, text: str, status: int) -> Path:
        path = self.folder / f"{abs(hash((text, status)))}.txt"
        path.write_text(text)
        return path

    def _program(self, path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
