"""Whether what users type works: over `ssh host command`, without a login shell."""

from __future__ import annotations

import re
import shlex

from bake import files
from bake.verify.check import CommandOutput, Failed, Shell, Skipped, ask
from bake.verify.diagnosis import Diagnosis, diagnose_failure, verbatim
from bake.verify.expectation import Expectation

NOTEBOOKS = "d2l-en"
NO_FRAMEWORK = "the recipe installs no framework"
_MODULES = {"mxnet": "mxnet", "pytorch": "torch"}
# The first import of a framework reads gigabytes from a disk that is still being filled from S3.
_IMPORT_TIMEOUT_S = 600


def check_nvcc(shell: Shell, expectation: Expectation) -> str:
    if expectation.cuda_release is None:
        raise Skipped("the recipe installs no CUDA toolkit")
    answer = ask(shell, "nvcc --version", timeout_s=60)
    match = re.search(r"\brelease (\d+\.\d+)", answer.stdout)
    if answer.exit_status or not match:
        raise Failed(
            Diagnosis(
                "nvcc does not say its release",
                verbatim(answer.stdout + answer.stderr),
                "It must be on the PATH of `ssh host command`; see the log of the stage cuda.",
            )
        )
    if match[1] != expectation.cuda_release:
        raise Failed(
            Diagnosis(
                f"nvcc is of release {match[1]}, not {expectation.cuda_release}",
                "another toolkit is installed, or comes first on the PATH",
                "`ls -d /usr/local/cuda*` and `command -v nvcc` on the machine.",
            )
        )
    return f"release {match[1]}"


def cuda_runtime(release: str) -> str:
    """The file name that programs of this CUDA look for: one for all of 11, as of 12 and later."""
    major = int(release.split(".")[0])
    if major >= 12:
        return f"libcudart.so.{major}"
    return "libcudart.so.11.0" if major == 11 else f"libcudart.so.{release}"


def check_cuda_libraries(shell: Shell, expectation: Expectation) -> str:
    """What the loader finds without LD_LIBRARY_PATH: services do not have it."""
    if expectation.cuda_release is None:
        raise Skipped("the recipe installs no CUDA toolkit")
    if not expectation.cuda_libraries:
        raise Skipped("a stand-in for the toolkit has no libraries")
    wanted = cuda_runtime(expectation.cuda_release)
    answer = ask(shell, "env -u LD_LIBRARY_PATH /sbin/ldconfig -p", timeout_s=60)
    found: dict[str, str] = dict(
        re.findall(r"^\s*(libcudart\.so\.\S+) .*=> (\S+)", answer.stdout, re.MULTILINE)
    )
    if wanted not in found:
        raise Failed(
            Diagnosis(
                f"the loader does not find {wanted}",
                f"it knows {', '.join(sorted(found)) or 'no CUDA runtime'}",
                "The toolkit's folder belongs in /etc/ld.so.conf.d; see the log of the stage cuda.",
            )
        )
    return found[wanted]


def check_python(shell: Shell, expectation: Expectation) -> str:
    """The environment's Python, started as a user would."""
    if expectation.environment is None:
        raise Skipped("the recipe installs no Python")
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.prefix)"
    answer = _python(shell, expectation, code)
    version, _, prefix = answer.stdout.strip().partition(" ")
    wanted = expectation.python
    if wanted and version.split(".")[: len(wanted.split("."))] != wanted.split("."):
        raise Failed(Diagnosis(f"the environment's Python is {version}, not {wanted}"))
    if prefix != expectation.environment_prefix:
        raise Failed(
            Diagnosis(
                f"{_starter(expectation)[0]} starts the Python of {prefix}, "
                f"not of {expectation.environment_prefix}"
            )
        )
    return f"{version} in {prefix}"


def check_import(shell: Shell, expectation: Expectation) -> str:
    """That the framework imports; what it is worth, the tensors say."""
    if expectation.framework is None:
        raise Skipped(NO_FRAMEWORK)
    module = _MODULES[expectation.framework]
    answer = _python(shell, expectation, f"import {module}; print({module}.__version__)")
    version = _release(answer.stdout.strip().split("\n")[-1])
    if version != _release(expectation.framework_version):
        raise Failed(
            Diagnosis(f"{module} is {version or 'nameless'}, not {expectation.framework_version}")
        )
    return f"{module} {version}"


def check_d2l(shell: Shell, expectation: Expectation) -> str:
    if expectation.framework is None or expectation.d2l is None:
        raise Skipped("the recipe has no stage d2l")
    module = _MODULES[expectation.framework]
    code = f"from d2l import {module}; import d2l; print(d2l.__version__)"
    version = _python(shell, expectation, code).stdout.strip().split("\n")[-1]
    if version != expectation.d2l:
        raise Failed(Diagnosis(f"d2l is {version}, not {expectation.d2l}"))
    return f"d2l {version}"


def check_jupyter(shell: Shell, expectation: Expectation) -> str:
    """Jupyter, and a kernel that runs in the environment."""
    if expectation.d2l is None:
        raise Skipped("the recipe has no stage d2l")
    command = [expectation.python_path, "-m", "jupyter", "kernelspec", "list", "--json"]
    answer = ask(shell, shlex.join(command), timeout_s=_IMPORT_TIMEOUT_S)
    try:
        kernels = files.parse_json(answer.stdout)["kernelspecs"]
        starts = {name: str(kernel["spec"]["argv"][0]) for name, kernel in kernels.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed(
            *diagnose_failure("jupyter", answer.stderr or answer.stdout, answer.exit_status)
        ) from None
    if starts.get(expectation.environment) != expectation.python_path:
        raise Failed(
            Diagnosis(
                f"Jupyter has no kernel {expectation.environment} that runs "
                f"{expectation.python_path}",
                f"it has {', '.join(map(' → '.join, starts.items())) or 'none'}",
                "See the log of the stage d2l.",
            )
        )
    return f"kernel {expectation.environment}"


def check_notebooks(shell: Shell, expectation: Expectation) -> str:
    if not expectation.notebooks:
        raise Skipped("the recipe wants no notebooks")
    count = f"find -H ~/{NOTEBOOKS} -name '*.ipynb' -type f 2>/dev/null | wc -l"
    answer = ask(shell, count, timeout_s=60)
    found = answer.stdout.strip()
    if not found.isdecimal() or not found.strip("0"):  # how many: as long as the machine likes
        raise Failed(
            Diagnosis(
                f"there are no notebooks in ~/{NOTEBOOKS}", "", "See the log of the stage d2l."
            )
        )
    return f"{found} in ~/{NOTEBOOKS}"


def _starter(expectation: Expectation) -> list[str]:
    if expectation.conda and expectation.environment:
        return ["conda", "run", "-n", expectation.environment, "python"]
    return [expectation.python_path]


def _python(shell: Shell, expectation: Expectation, code: str) -> CommandOutput:
    command = shlex.join([*_starter(expectation), "-c", code])
    answer = ask(shell, command, timeout_s=_IMPORT_TIMEOUT_S)
    if answer.exit_status:
        text = answer.stderr + answer.stdout
        raise Failed(*diagnose_failure(_starter(expectation)[0], text, answer.exit_status))
    return answer


def _release(version: str) -> str:
    """1.7.0 of 1.7.0.post2, 2.11.0 of 2.11.0+cu130."""
    return re.sub(r"(\+|\.post|\.dev|rc|[ab]\d).*", "", version)
