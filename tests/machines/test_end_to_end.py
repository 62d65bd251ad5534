"""The main job, with stand-ins: bake, list the image with the AWS CLI, launch, use, terminate."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tasks
from bake.aws.checkpoint import checkpoints
from bake.aws.client import session
from bake.aws.machine import find_own_machine
from bake.local import control
from bake.machine import ssh_config
from bake.record import Record
from bake.verify import check_clean
from bake.verify.clean import forbidden
from tests.support.browser import browser, screenshot
from tests.support.documents import checked
from tests.support.environment import REPOSITORY
from tests.support.jupyter_evidence import evidence
from tests.support.leftovers import held
from tests.support.notebook_page import NotebookPage
from tests.support.terminal import in_terminal

pytestmark = pytest.mark.timeout(600)

BIN = Path(sys.executable).parent
# Other tests may have left images of other recipes, of which no command chooses one by itself.
IMAGE = ("--ami", "mxnet-cu101")


def invoke(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [BIN / "invoke", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == status, run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    return run


def aws(*words: str) -> Any:
    """Run the AWS CLI with the variables that `invoke local.env` prints."""
    script = f'eval "$({BIN}/invoke local.env)"; exec {BIN}/aws ec2 {shlex.join(words)}'
    run = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@contextmanager
def holding(*words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A context that runs a command with a tunnel, and gives its process and JSON document."""
    process = subprocess.Popen(
        [BIN / "invoke", *words, "--json"],
        cwd=REPOSITORY, env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = list(iter(process.stdout.readline, "}\n"))
        yield process, checked(words[0], "".join([*lines, "}"]))
    finally:
        process.kill()
        print(*process.communicate(), sep="\n")


def until_interrupted(words: list[str], ready: str, work: Callable[[], str]) -> dict[str, str]:
    """Run a command, do `work` when it is ready, press Ctrl-C, and return what was printed."""
    nowhere = {name: os.environ[name] for name in os.environ if "DISPLAY" not in name}
    nowhere.pop("BROWSER", None)
    nowhere["PYTHONFAULTHANDLER"] = "1"
    with subprocess.Popen(
        [BIN / "invoke", *words],
        cwd=REPOSITORY, env=nowhere, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            before = ""
            while ready not in before:
                line = process.stderr.readline()
                assert line, before
                before += line
            done = work()
            process.send_signal(signal.SIGINT)
            out, after = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            print(*process.communicate(), sep="\n")
            raise
    assert process.returncode == 0
    return {"before": before, "work": done, "after": after, "out": out}


@pytest.fixture(scope="module")
def baked(local_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The record of one bake of the default recipe by the command line."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BAKE_HOME", str(local_home))
        monkeypatch.setenv("BAKE_BUILDS", str(tmp_path_factory.mktemp("builds")))
        endpoint = control.status()
        assert endpoint is not None
        for name, value in control.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        before = held()  # left by other tests
        run = invoke("bake", "--cuda", "10.1", "--local", "--stand-in", "--json")
        [outcome] = checked("bake", run.stdout)["bakes"]
        assert outcome["status"] == "baked"
        record: dict[str, Any] = json.loads(Path(outcome["baked"]["record_path"]).read_text())
        record["builds"] = os.environ["BAKE_BUILDS"]
        record["before"] = before
        yield record


@pytest.fixture
def machine(baked: dict[str, Any], local_cloud: Path) -> Iterator[list[str]]:
    """The SSH command of a machine that was launched from the baked image."""
    said = invoke("launch-from-ami", *IMAGE, "--local", "--name", "mine", "--json")
    yield json.loads(said.stdout)["ssh"]
    invoke("terminate", "mine", "--yes", "--local")


def test_a_bake_leaves_the_image_its_record_and_nothing_else(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    before = baked["before"]
    left = {kind: [*{*ids} - {*before.get(kind, [])}] for kind, ids in held().items()}
    assert left.pop("images") == [baked["image_id"]]
    kept = [checkpoint.snapshot_id for checkpoint in checkpoints(session.connect(), "mxnet-cu101")]
    assert len(kept) == 4, "one after each wave of stages"
    assert {*left.pop("snapshots")} == {*baked["snapshot_ids"], *kept}
    assert not any(left.values()), left
    folder = Path(baked["builds"], baked["run"])
    record = Record.model_validate_json((folder / "record.json").read_text())
    assert record.verified == "cpu"
    assert record.payload == "stand-in"
    assert [stage.name for stage in record.stages][-1] == "seal"
    assert record.inventory.pip["mxnet-cu101"] == "1.7.0"
    assert {path.stem for path in folder.glob("*.log")} == {stage.name for stage in record.stages}


def test_the_aws_cli_lists_the_image_and_its_snapshot_with_all_tags(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    (image,) = aws("describe-images", "--owners", "self")["Images"]
    (snapshot,) = aws("describe-snapshots", "--owner-ids", "self", "--filters",
                      "Name=tag-key,Values=bake:digest")["Snapshots"]  # fmt: skip
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]} == tags
    assert tags["bake:verified"] == "cpu"
    assert tags["bake:payload"] == "stand-in"
    assert tags["bake:digest"] == baked["digest"]
    assert tags["bake:recipe"] == "mxnet-cu101"
    assert {key for key in tags if key.startswith("bake:stage:")} == {
        f"bake:stage:{name}"
        for name in ("base", "drivers", "cuda", "conda", "mxnet", "d2l", "seal")
    }
    assert image["ImdsSupport"] == "v2.0"
    assert image["Public"] is False
    assert image["Name"].startswith("bake/mxnet-cu101/")


def test_a_launched_machine_has_all_contents_and_no_data_of_the_builder(machine: list[str]) -> None:
    script = """
        set -e
        conda run -n d2l python -c "import mxnet; print(mxnet.__version__)"
        nvcc --version
        test -d d2l-en
        conda run -n d2l jupyter kernelspec list
    """
    run = subprocess.run([*machine, script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "1.7.0" in run.stdout
    assert "release 10.1" in run.stdout
    assert run.stdout.rstrip().count("d2l") >= 1
    # What a person would type into a shell there, without one.
    framework = ("python", "-c", "import mxnet; print(mxnet.__version__)")
    assert invoke("run", "mine", "--local", "--", *framework).stdout == "1.7.0\n"


def test_nothing_of_the_builder_is_on_a_machine_booted_from_the_image(
    local_cloud: Path, machine: list[str], baked: dict[str, Any]
) -> None:
    ours = session.connect()
    host = ssh_config.find_host(
        ours, find_own_machine(ours, "mine"), ssh_port=int(os.environ["BAKE_SSH_PORT"])
    )
    with ssh_config.connect(host) as connection:
        checks = check_clean(connection, booted=True, traces=[baked["run"]])
    looked_for = {check.name for check in checks if check.outcome == "passed"}
    assert looked_for >= {*forbidden()["places"], "password", "traces of the builder"}


def test_the_life_of_a_machine_on_the_command_line(machine: list[str], local_cloud: Path) -> None:
    assert "running" in invoke("machines", "--local").stdout
    invoke("stop", "mine", "--local")
    refused = invoke("connect", "mine", "--local", status=2)
    assert "invoke start mine" in refused.stderr
    invoke("start", "--local")
    (found,) = checked("machines", invoke("machines", "--local", "--json").stdout)["machines"]
    assert found["state"] == "running"
    assert found["tags"]["bake:ttl"] == "12h"
    said = invoke("extend", "mine", "2h", "--local", "--json").stdout
    (extended,) = checked("extend", said)["machines"]
    assert 13.5 * 60 * 60 < extended["time_left_s"] <= 14 * 60 * 60
    assert "invoke extend NAME 2h" in invoke("extend", "--local", status=2).stderr
    again = invoke("launch-from-ami", *IMAGE, "--local", "--name", "mine", status=2)
    assert "A machine named mine exists already" in again.stderr


def test_one_command_leads_to_a_notebook_and_survives_a_broken_connection(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    launch = ["launch-from-ami", *IMAGE, "--jupyter", "--no-browser", "--local"]
    launch += ["--name", "notebook"]
    with browser() as driver:
        with holding(*launch) as (client, document):
            told = {**document, **document["jupyter"]}
            driver.get(told["url"])
            page = NotebookPage(driver, evidence=lambda: evidence(driver, told))
            assert page.kernel == "d2l (mxnet)"
            said = page.run(
                "import mxnet, sys; x = mxnet.np.arange(12).reshape(3, 4); "
                "print(mxnet.__version__, sys.prefix, x.sum())"
            )
            assert said == "1.7.0 /opt/conda/envs/d2l 66.0"
            screenshot(driver, "jupyter/cell.png")
            cut = [*told["ssh"], "sudo pkill -KILL -f '^sshd: ubuntu'"]
            assert subprocess.run(cut, capture_output=True, timeout=30).returncode == 255
            assert page.run("print(x[2, 3])") == "[11.]"
            client.kill()
            _, errors = client.communicate()
            assert errors.count("The SSH connection broke") == 1
            assert errors.count("Connected again") == 1
        again = ["jupyter", "notebook", "--local", "--port", str(told["port"])]
        said = until_interrupted(again, "Ctrl-C", lambda: page.reload().run("print(x[0])"))
        assert said["work"] == "[0. 1. 2. 3.]"
        assert "runs already" in said["before"]
        assert "No browser could be opened on this computer.\n" in said["before"]
        assert said["out"] == f"Jupyter  {told['url']}\n"
        assert "Jupyter still runs, and notebook still costs money" in said["after"]
        assert "jupyter notebook --local --stop\n" in said["after"]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with holding(*again[:-1], str(port)) as (client, document):
            elsewhere = document["jupyter"]
            assert elsewhere["port"] != port
            assert f":{elsewhere['port']}/" in elsewhere["url"]
            invoke("terminate", "notebook", "--yes", "--local")
            rest, errors = client.communicate()
    assert (client.returncode, rest) == (1, ""), "there is one document"
    assert f"Port {port} is in use" in errors
    assert "notebook was terminated while you were connected" in errors
    assert "UserInitiatedShutdown" in errors


def test_a_printed_command_works_without_an_activated_virtual_environment(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    said = invoke("launch-from-ami", *IMAGE, "--local", "--name", "pasted").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("End it")]
    pasted = line.removeprefix("End it").strip() + " --yes"
    subprocess.run(pasted, shell=True, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)


def test_an_image_is_copied_to_another_region_once_then_launched_and_pruned(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    there = ["--local", "--region", "us-west-2"]
    copy = ["copy", baked["image_id"], "--to", "us-west-2", "--local", "--json"]
    (first,) = checked("copy", invoke(*copy).stdout)["copies"]
    (second,) = checked("copy", invoke(*copy).stdout)["copies"]
    assert (first["status"], second["status"]) == ("copied", "exists")
    assert first["image_id"] == second["image_id"] != baked["image_id"]
    said = invoke("launch-from-ami", *IMAGE, *there, "--name", "there", "--json")
    ssh = json.loads(said.stdout)["ssh"]
    python = "/opt/conda/envs/d2l/bin/python"
    run = subprocess.run(
        [*ssh, python, "-c", "'import d2l, mxnet; print(mxnet.__version__)'"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert run.stdout.strip() == "1.7.0", run.stderr
    invoke("terminate", "there", "--yes", *there)
    said = invoke("prune", *there, "--keep", "1", "--yes", "--json")
    (only,) = checked("prune", said.stdout)["images"]
    assert (only["decision"], only["why"]) == ("kept", "the newest")
    session.connect("us-west-2").ec2(
        "DeregisterImage", ImageId=first["image_id"], DeleteAssociatedSnapshots=True
    )


def test_a_machine_is_launched_in_a_reservation_until_it_is_full(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    made = aws("create-capacity-reservation", "--instance-type", "g4dn.2xlarge",
               "--instance-platform", "Linux/UNIX", "--availability-zone", "us-east-1c",
               "--instance-count", "1")["CapacityReservation"]["CapacityReservationId"]  # fmt: skip
    words = ["launch-from-ami", *IMAGE, "--local", "--reservation", made, "--name", "reserved"]
    run = invoke(*words, "--disk-gb", "70", "--json")
    assert f"g4dn.2xlarge in us-east-1c ({made}), $0.00/h" in run.stderr
    volume = checked("launch-from-ami", run.stdout)["machine"]["root_volume_id"]
    assert aws("describe-volumes", "--volume-ids", volume)["Volumes"][0]["Size"] == 70
    full = invoke(*words[:-1], "second", status=2)
    assert f"{made} is full: 1 of 1" in full.stderr
    invoke("terminate", "reserved", "--yes", "--local")


def test_an_impossible_launch_is_refused_with_an_alternative(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    before = held()
    image_id, copy = baked["image_id"], f"invoke copy {baked['image_id']} --region us-east-1"
    for words, says in (
        (
            [*IMAGE, "--instance-type", "g6.xlarge"],
            "(L4): CUDA 10.1 does not support it. The most similar type that works is ",
        ),
        ([*IMAGE, "--disk-gb", "63"], "--disk-gb 64"),
        (["--region", "eu-west-3", "--ami", image_id], f"{copy} --to eu-west-3 --local"),
    ):
        assert says in invoke("launch-from-ami", "--local", *words, status=2).stderr
    assert held() == before


def test_a_machine_is_launched_for_a_benchmark_and_terminated(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    before = {kind: ids for kind, ids in held().items() if kind != "key pairs"}
    words = ["--ami", baked["image_id"], "--instance-type", "g4dn.xlarge", "--quick"]
    said = invoke("bench", "--local", *words, "--json")
    bench = checked("bench", said.stdout)
    (measured,) = bench["machines"]
    assert measured["framework"] == "mxnet"
    assert [(each["what"], each["failure"]) for each in measured["figures"]] == [
        *(("multiply", None), ("copy", None), ("add", None), ("train", None))
    ]
    assert all(each["value"] > 0 and each["device"] == "cpu" for each in measured["figures"])
    assert "! No GPU: these are figures of the CPU" in said.stderr
    assert Path(REPOSITORY, bench["page_path"]).read_text().startswith("<!doctype html>")
    assert {kind: ids for kind, ids in held().items() if kind != "key pairs"} == before


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_fit_into_a_terminal_and_ids_are_whole(
    baked: dict[str, Any], local_cloud: Path, columns: int
) -> None:
    for verb in ("images", "prune", "checkpoints"):
        code, terminal = in_terminal(verb, "--local", columns=columns)
        assert (code, terminal.broken()) == (0, []), terminal.text
        assert re.search("(ami|snap)-[0-9a-f]{17}", terminal.text)


# Every command, with words with which it succeeds, in an order in which they follow each other.
READING = [
    "local.status",
    "local.env",
    "recipes",
    "doctor --local",
    "plan mxnet-cu101 --local --stand-in",
    "bake mxnet-cu101 --local --stand-in",
    "rebuild mxnet-cu101 --local --stand-in",
    "report",
    "report --all",
    "gpus --gpu t4 --local",
    "quota --local",
    "images --local",
    "checkpoints --local",
    "prune --local",
    "reap --local",
    "completion bash",
    "schema",
]
USING = [
    "local.up",
    "copy IMAGE --to us-west-2 --local",
    "launch-from-ami --name every --local",
    "machines --local",
    "extend every 2h --local",
    "ssh-config every --local",
    "run every --local -- hostname",
    "connect every --local",
    "put README.md every:copied.md --local",
    "get every:copied.md FOLDER --local",
    "jupyter every --stop --local",
    "stop every --local",
    "start every --local",
    "terminate every --yes --local",
]
# They end the tests' local cloud, change this repository or take long: other tests run them.
ELSEWHERE = {"local.down", "local.interrupt", "init", "lock", "bench"}
# They have nothing to show here.
NO_RESULT = {"put", "get", "reap"}


def test_every_command_is_in_the_list() -> None:
    listed = {words.split()[0] for words in [*READING, *USING]}
    assert listed | ELSEWHERE == {*tasks.namespace.task_names}


@pytest.fixture
def commands(
    baked: dict[str, Any], local_cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """The words of each command in the list, with the baked image and a folder."""
    monkeypatch.setenv("BAKE_BUILDS", baked["builds"])
    here = {"IMAGE": baked["image_id"], "FOLDER": str(tmp_path)}
    return {text: [here.get(word, word) for word in text.split()] for text in [*READING, *USING]}


def test_every_command_writes_its_result_to_stdout_and_wraps_nothing_outside_a_terminal(
    commands: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, words in commands.items():
        runs = []
        for columns in ["40", "200"] if text in READING else ["40"]:
            monkeypatch.setenv("COLUMNS", columns)
            runs.append(invoke(*words))
        outputs = [re.sub(r" *[0-9.]+ (s|min)\b", " TIME", run.stdout) for run in runs]
        assert outputs[0] == outputs[-1], text
        assert bool(outputs[0]) == (words[0] not in NO_RESULT), text
        assert "\x1b" not in runs[0].stdout + runs[0].stderr, text


def test_every_command_with_json_writes_one_document_and_nothing_else_to_stdout(
    commands: dict[str, list[str]],
) -> None:
    for words in commands.values():
        if "json" in tasks.namespace[words[0]].takes:
            json.loads(invoke(*words, "--json").stdout)
        elif words[0] in {"stop", "start", "terminate"}:
            invoke(*words)


@pytest.mark.parametrize("words", ["images --local", "gpus --local", "recipes", "--list"])
def test_a_reader_that_ends_early_is_no_failure_to_speak_of(
    words: str, baked: dict[str, Any], local_cloud: Path
) -> None:
    piped = f"{shlex.quote(str(BIN / 'invoke'))} {words} | true"
    run = subprocess.run(piped, shell=True, cwd=REPOSITORY, capture_output=True, timeout=60)
    assert (run.stdout, run.stderr) == (b"", b"")


def test_an_image_that_is_not_proved_on_a_gpu_is_not_launched_on_aws(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    # Without --local it is AWS's rule that holds, whatever the endpoint is.
    refused = invoke("launch-from-ami", "--ami", baked["image_id"], status=2)
    assert "bake:verified=gpu" in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bake", "mxnet-cu102", "--local"], "mxnet-cu101"),
        (["bake", "--cuda", "10.3"], "There are recipes for CUDA 10.0, 10.1"),
        (["bake", "--cuda", "10.1", "--instance-type", "p4d.24xlarge"], "A100"),
        (["bake", "--cuda", "10.1", "--stand-in"], "Add --local"),
        (["bake", "--cuda", "10.1", "--spot", "--no-spot"], "exclude each other"),
        (["bake", "mxnet-cu101", "mxnet-cu112", "--name", "x"], "--name is for one image"),
        (["bake", "--cuda", "10.1", "--local"], "--stand-in"),
        (["launch-from-ami", "--local", "--ami", "ami-00000000000000000"], "No available image"),
        (["terminate", "nobody", "--local"], "Machine nobody not found"),
        (["copy", "--local"], "--to us-west-2,eu-central-1"),
        (["prune", "--local", "--keep", "0"], "Keep at least one"),
        (["prune", "--local", "--older-than", "soon"], "12h, 30d, 2w"),
    ],
)
def test_a_wrong_request_exits_with_2_and_a_hint(
    words: list[str], says: str, local_cloud: Path
) -> None:
    before = held()
    assert says in invoke(*words, status=2).stderr
    assert held() == before


def test_an_image_name_that_is_in_use_is_reported_before_anything_starts(
    baked: dict[str, Any], local_cloud: Path
) -> None:
    before = held()
    words = ["bake", "--cuda", "10.1", "--local", "--stand-in", "--name"]
    words += [baked["image_name"], "--fresh"]
    refused = invoke(*words, status=2)
    assert "already has the name" in refused.stderr
    assert held() == before


def test_without_credentials_or_a_region_the_hint_says_what_to_do(monkeypatch: Any) -> None:
    no_region = invoke("bake", "--cuda", "10.1", status=2)
    assert "--region" in no_region.stderr
    no_credentials = invoke("bake", "--cuda", "10.1", "--region", "us-west-2", status=2)
    assert "credentials" in no_credentials.stderr


def test_help_and_list_load_no_large_library() -> None:
    code = (
        "import sys; import tasks; "
        "heavy = {'boto3', 'fabric', 'pydantic', 'rich', 'paramiko', 'moto'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "--stand-in" in invoke("--help", "bake").stdout
