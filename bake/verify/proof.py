"""The proof that a machine is what its recipe promises, before an image of it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bake.errors import VerificationError
from bake.verify import gpu, hardware, nvidia_smi, packages, software, system, tensors
from bake.verify.check import Check, Failed, NotPromised, Outcome, Shell, Skipped, run_command
from bake.verify.diagnosis import diagnose, diagnose_failure
from bake.verify.expectation import Expectation
from bake.verify.hardware import Hardware
from bake.verify.known import Diagnosis
from bake.verify.nvidia_smi import GpuState, SmiReport
from bake.verify.scripted import CheckScript, run_script
from bake.verify.tensors import Tensors

OnCheck = Callable[[Check], None]
Verified = Literal["gpu", "cpu", "no"]

# Without the persistence daemon, each call loads the driver again, for each of the GPUs.
_NVIDIA_SMI_TIMEOUT_S = 180
# The driver's own lines of the kernel's log, which some kernels show to root only. One fault may be
# followed by hundreds of lines about its consequences.
_DMESG = (
    "{ sudo -n dmesg || dmesg; } 2>/dev/null | "
    "grep -E 'NVRM|nvidia|Lockdown:|is rejected' | tail -n 5000"
)


@dataclass(frozen=True)
class Proof:
    """The checks of one machine, and the conclusion from them.

    `verified` is "gpu" if everything that the stages promise was proved on real GPUs, "cpu" if it
    was proved on a machine without a GPU, and "no" if less than that was proved, or nothing.
    """

    verified: Verified
    checks: tuple[Check, ...]
    gpus: tuple[GpuState, ...] = ()
    tensors: Tensors | None = None


def prove(
    shell: Shell,
    expectation: Expectation,
    scripts: Sequence[CheckScript] = (),
    *,
    on_check: OnCheck | None = None,
) -> Proof:
    """Run every check of a machine. VerificationError names each failed check, with a hint.

    `scripts` are run after the checks of bake. `on_check` gets each check when it has ended. A
    broken connection raises ConnectError. If there is nothing to prove, the result is one skipped
    check with this reason, and no command is run.
    """
    if not (expectation.proves_anything or scripts):
        nothing = Check("proof", "skipped", "the recipe's stages install nothing to prove", 0.0)
        if on_check:
            on_check(nothing)
        return Proof("no", (nothing,))
    examination = _Examination(shell, expectation)

    def run_all(these: Sequence[tuple[str, Callable[[], str]]]) -> list[Check]:
        done = []
        for name, perform in these:
            with suppress(NotPromised):
                done.append(_run(name, perform))
                if on_check:
                    on_check(done[-1])
        return done

    own = run_all(examination.checks())
    scripted = run_all(examination.scripted_checks(scripts))
    checks = (*own, *scripted)
    if failed := [check for check in checks if check.outcome == "failed"]:
        names = ", ".join(check.name for check in failed)
        raise VerificationError(
            f"The machine is not what the recipe promises: {names}",
            hint="No image was made",
            details=[str(check) for check in failed],
        )
    return Proof(
        examination.verified(own, scripted),
        checks,
        gpus=examination.report.gpus if examination.report else (),
        tensors=examination.tensors,
    )


def _run(name: str, perform: Callable[[], str]) -> Check:
    """Perform one check, and return its result and its time; NotPromised if it does not apply."""
    start = time.monotonic()
    outcome: Outcome = "passed"
    try:
        detail = perform()
    except Failed as failure:
        outcome, detail = "failed", str(failure)
    except Skipped as reason:
        outcome, detail = "skipped", str(reason)
    return Check(name, outcome, detail, time.monotonic() - start)


# The checks without which nothing was proved about a GPU. The check of the kernel's log is not one
# of them, because the login user may have no permission to read it.
GPU_CHECKS = {"GPU present", "nvidia-smi", "GPU models", "GPU health", "driver"}
PACKAGES = "packages"
# Of the machine, and not of what a GPU or a CPU computes
SYSTEM_CHECKS = {"kernel", "upgrades"}
TENSORS = "tensors"  # also needed, if the recipe installs a framework


class _Examination:
    """The checks of one machine, and the results that later checks need from earlier ones."""

    def __init__(self, shell: Shell, expectation: Expectation) -> None:
        self.shell = shell
        self.expectation = expectation
        self.hardware: Hardware | None = None
        self.report: SmiReport | None = None
        self.tensors: Tensors | None = None

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        """Return the name and the function of each check, in their order."""
        shell, expectation = self.shell, self.expectation
        return [
            ("GPU present", self.present),
            ("nvidia-smi", self.nvidia_smi),
            ("GPU models", self.models),
            ("GPU health", self.health),
            ("driver", self.driver),
            ("persistence mode", self.persistence),
            ("kernel log", self.kernel_log),
            ("kernel", self.kernel),
            ("upgrades", lambda: system.check_upgrades(shell, expectation)),
            ("nvcc", lambda: software.check_nvcc(shell, expectation)),
            ("CUDA libraries", lambda: software.check_cuda_libraries(shell, expectation)),
            ("Python", lambda: software.check_python(shell, expectation)),
            ("framework", lambda: software.check_import(shell, expectation)),
            ("d2l", lambda: software.check_d2l(shell, expectation)),
            ("Jupyter", lambda: software.check_jupyter(shell, expectation)),
            ("notebooks", lambda: software.check_notebooks(shell, expectation)),
            (PACKAGES, lambda: packages.check_packages(shell, expectation)),
            (TENSORS, self.compute),
        ]

    def scripted_checks(
        self, scripts: Sequence[CheckScript]
    ) -> list[tuple[str, Callable[[], str]]]:
        """Return the name and the function of each check that is a script."""
        return [(script.name, partial(self.run_script, script)) for script in scripts]

    def verified(self, checks: list[Check], scripted: list[Check]) -> Verified:
        """Return the value of `bake:verified` that the checks prove, if none of them has failed.

        Scripts and packages prove their part of the machine, but nothing about a GPU. Where a GPU
        may be there, packages alone do not prove that the machine works without it.
        """
        passed = {check.name for check in checks if check.outcome == "passed"} - SYSTEM_CHECKS
        if self.expectation.gpu:
            passed.discard(PACKAGES)
        passed |= {check.outcome for check in scripted} & {"passed"}
        if self.expectation.framework and (self.tensors is None or TENSORS not in passed):
            return "no"
        if passed >= GPU_CHECKS:
            return "gpu" if self.tensors is None or self.tensors.on_gpu else "no"
        on_gpu = passed & GPU_CHECKS or (self.tensors is not None and self.tensors.on_gpu)
        return "cpu" if passed and not on_gpu else "no"

    def present(self) -> str:
        """Check that the machine has a GPU if the recipe requires one."""
        if self.expectation.gpu is None:
            raise NotPromised
        self.hardware = found = hardware.inspect(self.shell)
        if found.gpus:
            return ", ".join(found.gpus)
        reason = "this machine has no NVIDIA GPU"
        if found.host_gpus:
            reason = "the host of this container has a GPU, but the container has no access to it"
        if self.expectation.gpu == "required":
            raise Failed(
                Diagnosis(
                    reason,
                    'the recipe sets gpu = "required"',
                    'Choose an instance type with a GPU, or set gpu = "if-present" in the recipe.',
                )
            )
        raise Skipped(reason)

    def nvidia_smi(self) -> str:
        """Check that nvidia-smi reports the GPUs without an error."""
        self._need_a_gpu()
        answer = run_command(self.shell, nvidia_smi.COMMAND, timeout_s=_NVIDIA_SMI_TIMEOUT_S)
        try:
            report = nvidia_smi.parse(answer.stdout)
            output = report.messages
        except VerificationError as error:
            report, output = None, f"{answer.stdout}\n{answer.stderr}"
            if answer.exit_status == 0 and not diagnose(output):
                raise Failed(Diagnosis(error.message, "; ".join(error.details))) from None
        # Messages around the XML are about GPUs that are missing from it.
        if report is None or answer.exit_status or diagnose(output) or not report.gpus:
            output = output.strip() or nvidia_smi.NO_GPU
            log = self._kernel_log()
            raise Failed(
                *diagnose_failure("nvidia-smi", output, answer.exit_status, kernel_log=log)
            )
        self.report = report
        return f"driver {report.driver_version}, {len(report.gpus)} GPUs"

    def models(self) -> str:
        """Check model, number and memory of the GPUs."""
        gpus = self._need_a_report().gpus
        return gpu.check_models(gpus, self._need_a_gpu(), self.expectation)

    def health(self) -> str:
        """Check that no GPU reports a fault."""
        return gpu.check_health(self._need_a_report().gpus)

    def driver(self) -> str:
        """Check the driver's version."""
        return gpu.check_driver(self._need_a_report(), self._need_a_gpu(), self.expectation)

    def persistence(self) -> str:
        """Check that the driver stays initialized while no process uses a GPU."""
        gpus = self._need_a_report().gpus
        if self._need_a_gpu().container:
            raise Skipped("the persistence daemon runs on the host of this container")
        return gpu.check_persistence(gpus)

    def kernel(self) -> str:
        """Check the kernels that can boot, and their modules."""
        versions = set(self.hardware.library_versions.values()) if self.hardware else set()
        return system.check_kernel(self.shell, self.expectation, versions)

    def kernel_log(self) -> str:
        """Check that the driver reports no fault in the kernel's log."""
        self._need_a_gpu()
        if not (log := self._kernel_log()):
            raise Skipped("the kernel's log cannot be read, or contains no line of the driver")
        return gpu.check_kernel_log(log)

    def compute(self) -> str:
        """Check that the framework computes right results on every GPU, or on the CPU."""
        if self.expectation.gpu is None:
            # Without a stage for the driver, no GPU is promised: CPU and GPU are both right.
            self.tensors = tensors.compute(self.shell, self.expectation)
            return tensors.judge(self.tensors, gpus=self.tensors.gpus)
        gpus = 0
        if self.hardware and self.hardware.gpus:
            gpus = len(self._need_a_report().gpus)
        elif self.expectation.gpu == "required":
            raise Skipped("the machine has no GPU to compute on")
        self.tensors = tensors.compute(self.shell, self.expectation)
        return tensors.judge(self.tensors, gpus=gpus)

    def run_script(self, script: CheckScript) -> str:
        """Run a check that is a script; it gets the number of GPUs."""
        if self.hardware is None:
            self.hardware = hardware.inspect(self.shell)
        return run_script(self.shell, script, gpus=len(self.hardware.gpus))

    def _need_a_gpu(self) -> Hardware:
        if self.expectation.gpu is None:
            raise NotPromised
        if self.hardware is None or not self.hardware.gpus:
            raise Skipped("the machine has no GPU")
        return self.hardware

    def _need_a_report(self) -> SmiReport:
        self._need_a_gpu()
        if self.report is None:
            raise Skipped("nvidia-smi did not report the GPUs")
        return self.report

    def _kernel_log(self) -> str:
        return run_command(self.shell, _DMESG, timeout_s=60).stdout.strip()
