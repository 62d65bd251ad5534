"""The checks that installed software works as users run it: by `ssh HOST COMMAND`."""

from __future__ import annotations

import re
import shlex

from bake import files
from bake.verify.check import CommandOutput, Failed, NotPromised, Shell, Skipped, run_command
from bake.verify.diagnosis import diagnose_failure, verbatim
from bake.verify.expectation import Expectation
from bake.verify.known import CUDA_LOG, Diagnosis

NOTEBOOKS = "d2l-en"
D2L_LOG = "Read the log of the stage d2l."
_MODULES = {"pytorch": "torch"}  # of the others, the module has the framework's name
# The first import of a framework reads gigabytes from a disk whose blocks are still in S3.
_IMPORT_TIMEOUT_S = 600


def check_nvcc(shell: Shell, expectation: Expectation) -> str:
    """Check that nvcc is on the PATH and has the expected release."""
    if expectation.cuda_release is None:
        raise NotPromised
    output = run_command(shell, "nvcc --version", timeout_s=60)
    match = re.search(r"\brelease (\d+\.\d+)", output.stdout)
    if output.exit_status or not match:
        raise Failed(
            Diagnosis(
                "nvcc does not report its release",
                verbatim(output.stdout + output.stderr),
                "nvcc must be on the PATH of `ssh HOST COMMAND`. " + CUDA_LOG,
            )
        )
    if match[1] != expectation.cuda_release:
        raise Failed(
            Diagnosis(
                f"nvcc has release {match[1]}, not {expectation.cuda_release}",
                "another toolkit is installed, or comes first on the PATH",
                "Run `ls -d /usr/local/cuda*` and `command -v nvcc` on the machine.",
            )
        )
    return f"release {match[1]}"


def cuda_runtime(release: str) -> str:
    """Return the file name of the CUDA runtime: one for all releases of 11, of 12, and so on."""
    major = int(release.split(".")[0])
    if major >= 12:
        return f"libcudart.so.{major}"
    return "libcudart.so.11.0" if major == 11 else f"libcudart.so.{release}"


def check_cuda_libraries(shell: Shell, expectation: Expectation) -> str:
    """Check that the loader finds the CUDA runtime without LD_LIBRARY_PATH, as services need it."""
    if expectation.cuda_release is None:
        raise NotPromised
    if not expectation.cuda_libraries:
        raise Skipped("the stand-in for the toolkit has no libraries")
    wanted = cuda_runtime(expectation.cuda_release)
    output = run_command(shell, "env -u LD_LIBRARY_PATH /sbin/ldconfig -p", timeout_s=60)
    found: dict[str, str] = dict(
        re.findall(r"^\s*(libcudart\.so\.\S+) .*=> (\S+)", output.stdout, re.MULTILINE)
    )
    if wanted not in found:
        raise Failed(
            Diagnosis(
                f"the loader does not find {wanted}",
                f"it finds {', '.join(sorted(found)) or 'no CUDA runtime'}",
                "The toolkit's library folder must be listed in /etc/ld.so.conf.d. " + CUDA_LOG,
            )
        )
    return found[wanted]


def check_python(shell: Shell, expectation: Expectation) -> str:
    """Check version and place of the environment's Python, started as a user starts it."""
    if expectation.environment is None:
        raise NotPromised
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.prefix)"
    output = _python(shell, expectation, code)
    version, _, prefix = output.stdout.strip().partition(" ")
    wanted = expectation.python
    if wanted and version.split(".")[: len(wanted.split("."))] != wanted.split("."):
        raise Failed(Diagnosis(f"the environment's Python is {version}, not {wanted}"))
    if prefix != expectation.environment_prefix:
        raise Failed(
            Diagnosis(
                f"{_starter(expectation)[0]} starts the Python in {prefix}, "
                f"not in {expectation.environment_prefix}"
            )
        )
    return f"{version} in {prefix}"


def check_import(shell: Shell, expectation: Expectation) -> str:
    """Check that the framework can be imported and has the expected version."""
    if expectation.framework is None:
        raise NotPromised
    module = _MODULES.get(expectation.framework, expectation.framework)
    output = _python(shell, expectation, f"import {module}; print({module}.__version__)")
    version = _release(output.stdout.strip().split("\n")[-1])
    if version != _release(expectation.framework_version):
        raise Failed(
            Diagnosis(
                f"{module} has version {version or 'unknown'}, not {expectation.framework_version}"
            )
        )
    return f"{module} {version}"


def check_d2l(shell: Shell, expectation: Expectation) -> str:
    """Check that the package d2l can be imported and has the expected version."""
    if expectation.framework is None or expectation.d2l is None:
        raise NotPromised
    module = _MODULES.get(expectation.framework, expectation.framework)
    code = f"from d2l import {module}; import d2l; print(d2l.__version__)"
    version = _python(shell, expectation, code).stdout.strip().split("\n")[-1]
    if version != expectation.d2l:
        raise Failed(Diagnosis(f"d2l is {version}, not {expectation.d2l}"))
    return f"d2l {version}"


def check_jupyter(shell: Shell, expectation: Expectation) -> str:
    """Check that Jupyter has a kernel that runs the environment's Python."""
    if not expectation.jupyter:
        raise NotPromised
    command = [expectation.python_path, "-m", "jupyter", "kernelspec", "list", "--json"]
    output = run_command(shell, shlex.join(command), timeout_s=_IMPORT_TIMEOUT_S)
    try:
        kernels = files.parse_json(output.stdout)["kernelspecs"]
        starts = {name: str(kernel["spec"]["argv"][0]) for name, kernel in kernels.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed(
            *diagnose_failure("jupyter", output.stderr or output.stdout, output.exit_status)
        ) from None
    if starts.get(expectation.environment) != expectation.python_path:
        raise Failed(
            Diagnosis(
                f"Jupyter has no kernel {expectation.environment} that runs "
                f"{expectation.python_path}",
                f"its kernels are {', '.join(map(' → '.join, starts.items())) or 'none'}",
                "Read the log of the stage d2l or jupyter.",
            )
        )
    return f"kernel {expectation.environment}"


def check_notebooks(shell: Shell, expectation: Expectation) -> str:
    """Check that the book's notebooks are in the login user's home."""
    if not expectation.notebooks:
        raise NotPromised
    count = f"find -H ~/{NOTEBOOKS} -name '*.ipynb' -type f 2>/dev/null | wc -l"
    output = run_command(shell, count, timeout_s=60)
    found = output.stdout.strip()
    if not found.isdecimal() or not found.strip("0"):  # not int(): the text may be very long
        raise Failed(Diagnosis(f"no notebooks found in ~/{NOTEBOOKS}", "", D2L_LOG))
    return f"{found} in ~/{NOTEBOOKS}"


def _starter(expectation: Expectation) -> list[str]:
    if expectation.conda and expectation.environment:
        return ["conda", "run", "-n", expectation.environment, "python"]
    return [expectation.python_path]


def _python(shell: Shell, expectation: Expectation, code: str) -> CommandOutput:
    command = shlex.join([*_starter(expectation), "-c", code])
    output = run_command(shell, command, timeout_s=_IMPORT_TIMEOUT_S)
    if output.exit_status:
        text = output.stderr + output.stdout
        raise Failed(*diagnose_failure(_starter(expectation)[0], text, output.exit_status))
    return output


def _release(version: str) -> str:
    """Return the release of a version: 1.7.0 of 1.7.0.post2, 2.11.0 of 2.11.0+cu130."""
    return re.sub(r"(\+|\.post|\.dev|rc|[ab]\d).*", "", version)
