"""The checks that the machine boots its newest kernel, and that an upgrade changes no driver."""

from __future__ import annotations

import re

from bake.verify.check import Failed, NotPromised, Shell, Skipped, run_command
from bake.verify.expectation import Expectation
from bake.verify.hardware import PRINT_CONTAINER
from bake.verify.known import DRIVERS_LOG, Diagnosis

# modinfo is not in the PATH of every user. Debian's file name of the module is nvidia-current.
KERNELS = (
    PRINT_CONTAINER
    + r"""
PATH=$PATH:/usr/sbin:/sbin
echo "running $(uname -r)"
ls /boot | sed -n 's/^vmlinuz-//p' | sort -V | while read -r kernel; do
    [ -d "/lib/modules/$kernel" ] || continue
    module=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null ||
        modinfo -k "$kernel" -F version nvidia-current 2>/dev/null)
    echo "kernel $kernel $module"
done
"""
)
# What a user does, or unattended-upgrades does for the user.
UPGRADES = r"""
if ! command -v apt-get >/dev/null; then
    updates=$(dnf --quiet --releasever=latest check-upgrade)
    status=$?
    [ $status = 0 ] || [ $status = 100 ] || exit $status # 100: there are some
    printf '%s\n' "$updates" | sed -n 's/^\([^ ]*\)[.][^. ]* .*/Inst \1/p'
    exit
fi
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || { echo no lists; exit; }
for what in "upgrade" "--with-new-pkgs upgrade" "dist-upgrade"; do
    LC_ALL=C apt-get --simulate --quiet $what || exit
done
"""
_TIMEOUT_S = 120
# Toolkits are not the driver, and Debian's nvidia-cuda-toolkit is not held. Debian's names of the
# driver's libraries are libcuda1 and libnvcuvid1.
_DRIVER = re.compile(
    r"(?!nvidia-cuda-|(lib)?nvidia-container)(lib|kmod-)?nvidia-.*|libcuda1|libnvcuvid1|dkms|cuda-drivers.*"
)
_KERNEL = re.compile(
    r"linux-(image|headers|modules)-.*|kernel([0-9.]+)?(-devel|-headers|-modules-extra.*)?"
)


def check_kernel(shell: Shell, expectation: Expectation, libraries: set[str]) -> str:
    """Check that the newest kernel runs, and that each kernel has the driver's module.

    `libraries` are the versions of the driver's libraries; with another version, they refuse the
    module.
    """
    lines = run_command(shell, KERNELS, timeout_s=_TIMEOUT_S).stdout.splitlines()
    if "container" in lines:
        raise Skipped("a container runs the kernel of its host")
    running = "".join(line.split()[1] for line in lines if re.match(r"running \S", line))
    modules = {
        kernel: version
        for _, kernel, version in (
            [*line.split(), "", ""][:3] for line in lines if line.startswith("kernel ")
        )
    }
    newest = [*modules][-1] if modules else "none of /boot"
    if running != newest:
        raise Failed(
            Diagnosis(
                f"the machine runs the kernel {running}, and its newest one is {newest}",
                "a machine from the image would boot a kernel with which nothing was proved",
                "A stage after `base` has installed a kernel, or the boot loader has its own "
                "choice: run `ls /boot` and `cat /etc/default/grub` on the machine.",
            )
        )
    if expectation.gpu is None:
        return f"{running}, the newest one"
    wanted = ", ".join(sorted(libraries)) or "unknown"
    if faults := [
        Diagnosis(
            f"the kernel {kernel} has the nvidia module {version or 'of no version'}, and the "
            f"driver's libraries are {wanted}",
            "a machine that boots this kernel cannot use its GPU",
            DRIVERS_LOG,
        )
        for kernel, version in modules.items()
        if {version} != libraries
    ]:
        raise Failed(*faults)
    return f"{running}, the newest one, with nvidia {modules[running]}"


def check_upgrades(shell: Shell, expectation: Expectation) -> str:
    """Check that no upgrade of the system changes the driver, nor the kernel if it is held."""
    if expectation.gpu is None:
        raise NotPromised
    output = run_command(shell, UPGRADES, timeout_s=_TIMEOUT_S)
    if output.stdout.strip() == "no lists":
        raise Skipped("a stage has removed apt's package lists")
    if output.exit_status:
        words = " ".join((output.stderr or output.stdout).split())
        raise Failed(Diagnosis("apt cannot plan an upgrade of the system", words[:600]))
    names = {line.split()[1] for line in output.stdout.splitlines() if line.startswith("Inst ")}
    patterns = [_DRIVER, _KERNEL] if expectation.kernel_held else [_DRIVER]
    if changed := sorted(name for name in names if any(p.fullmatch(name) for p in patterns)):
        raise Failed(
            Diagnosis(
                f"an upgrade would change {', '.join(changed)}",
                "the driver and its kernel would differ from the verified ones",
                "Packages of the driver must be held, as the stage drivers does. A package that "
                "was published during this bake is held by the next one: bake again.",
            )
        )
    return f"{len(names)} packages, none of the driver"
