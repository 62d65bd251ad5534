"""The files that a stage is given: which they are, what is refused, what the digest covers."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake.plan import stage_files
from bake.plan.stage_files import StageFile, archive, below, files_digest, folder_of, read_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "greeter/themes").mkdir(parents=True)
    (files / "greeter/config.toml").write_text("colour = 1\n")
    (files / "greeter/themes/dark").write_bytes(b"\0\xff")
    (files / "run.sh").write_text("#!/bin/sh\n")
    (files / "run.sh").chmod(0o700)
    return files


def refused(folder: Path, *paths: str) -> str:
    _, findings = read_files(folder, paths)
    assert findings
    return "\n".join(map(str, findings))


def test_files_and_whole_folders_are_read_with_two_modes(folder: Path) -> None:
    (folder / "greeter/config.toml").chmod(0o600)
    found, findings = read_files(folder, ["run.sh", "greeter"])
    assert not findings
    assert found == (
        StageFile("greeter/config.toml", 0o644, b"colour = 1\n"),
        StageFile("greeter/themes/dark", 0o644, b"\0\xff"),
        StageFile("run.sh", 0o755, b"#!/bin/sh\n"),
    )
    assert [file.path for file in below(found, "greeter")] == [each.path for each in found[:2]]
    assert below(found, "run.sh") == [found[2]]
    assert below(found, "run") == []


def test_a_file_that_two_paths_name_is_there_once(folder: Path) -> None:
    found, findings = read_files(folder, ["greeter", "greeter/themes", "greeter/config.toml"])
    assert ([file.path for file in found], findings) == (
        ["greeter/config.toml", "greeter/themes/dark"],
        [],
    )


def test_the_folder_is_the_one_of_the_project_that_has_the_script(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "scripts/stages/motd.sh") == tmp_path / "files"


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "link").symlink_to("greeter/config.toml")
    (folder / "absolute").symlink_to(folder / "run.sh")
    (folder / "all").symlink_to("greeter", target_is_directory=True)
    found, findings = read_files(folder, ["link", "absolute", "all"])
    assert not findings
    assert [(file.path, oct(file.mode)) for file in found] == [
        ("absolute", "0o755"),
        ("all/config.toml", "0o644"),
        ("all/themes/dark", "0o644"),
        ("link", "0o644"),
    ]


def test_the_project_itself_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    found, findings = read_files(tmp_path / "elsewhere/files", ["run.sh"])
    assert (len(found), findings) == (1, [])


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "greeter/../../secret"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "greeter/link").symlink_to(target if target.startswith("/") else f"../{target}")
    assert "files/greeter/link: is a link that leads out of" in refused(folder, "greeter")


def test_a_folder_that_is_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "home").symlink_to("/usr")
    assert "files/home/bin: is a link that leads out of" in refused(folder, "home/bin")
    assert "files/home: is a link that leads out of" in refused(folder, "home")


def test_links_that_lead_nowhere_or_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "broken").symlink_to("nosuch")
    (folder / "circle").symlink_to("circle")
    (folder / "greeter/up").symlink_to("..")
    text = refused(folder, "broken", "circle", "greeter")
    assert "files/broken: is a link to something that does not exist" in text
    assert "files/circle: cannot be read: Too many levels of symbolic links" in text
    assert "files/greeter/up/greeter: is a link to a folder that contains it" in text


@pytest.mark.parametrize("path", ["nosuch", "greeter/nosuch", "nosuch/config.toml"])
def test_what_is_missing_is_refused_with_its_place(folder: Path, path: str) -> None:
    assert refused(folder, path) == (
        f"files/{path}: not found. Create {folder / path}, or correct Files: in the header"
    )


def test_a_project_without_the_folder_is_refused(tmp_path: Path) -> None:
    assert "files/x: not found" in refused(tmp_path / "files", "x")


def test_a_folder_without_files_is_refused(folder: Path) -> None:
    (folder / "empty/one").mkdir(parents=True)
    assert "files/empty: is a folder without files. Put a file into it" in refused(folder, "empty")


def test_sockets_and_pipes_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "greeter/pipe")  # reading it would wait for a writer
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("greeter/socket")
        text = refused(folder, "greeter")
    assert "files/greeter/pipe: is neither a file nor a folder" in text
    assert "files/greeter/socket: is neither a file nor a folder" in text


def test_a_file_that_cannot_be_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert "files/run.sh: cannot be read: Permission denied" in refused(folder, "run.sh")


def test_what_is_too_large_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(10**13)  # it has no blocks, and no memory has room for it
    text = refused(folder, "huge")
    assert "files/huge: is beyond the limit of a stage, 100 MB in 10,000 files" in text
    assert "let the stage download it with its sha256" in text
    monkeypatch.setattr(stage_files, "MOST_FILES", 2)
    _, [finding] = read_files(folder, ["greeter", "run.sh", "nosuch"])  # once, at the first
    assert finding.place == "files/run.sh"


def test_a_name_that_no_terminal_can_show_is_refused(folder: Path) -> None:
    (folder / "greeter/a\nb").write_text("")
    Path(os.fsdecode(os.fsencode(folder) + b"/greeter/\xff")).write_text("")
    text = refused(folder, "greeter")
    assert text.count("has a character that a path here cannot have. Rename it") == 2
    text.encode()


def test_the_digest_covers_paths_modes_and_bytes() -> None:
    one = StageFile("a", 0o644, b"x")
    others = [StageFile("b", 0o644, b"x"), StageFile("a", 0o755, b"x"), StageFile("a", 0o644, b"y")]
    digests = {files_digest([file]) for file in [one, *others]}
    assert len(digests) == 4
    assert files_digest([one, others[0]]) not in digests


def test_the_archive_depends_on_nothing_but_the_files(folder: Path) -> None:
    found, _ = read_files(folder, ["greeter", "run.sh"])
    first = archive(found)
    os.utime(folder / "run.sh", (1, 1))
    (folder / "greeter").chmod(0o700)
    assert archive(read_files(folder, ["run.sh", "greeter"])[0]) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert [(each.name, oct(each.mode)) for each in tar] == [
            ("greeter", "0o755"),
            ("greeter/config.toml", "0o644"),
            ("greeter/themes", "0o755"),
            ("greeter/themes/dark", "0o644"),
            ("run.sh", "0o755"),
        ]
    assert archive([]) == b""


part = st.text(
    st.characters(categories=["L", "N", "P"], exclude_characters="/"), min_size=1
).filter(lambda text: text not in (".", ".."))


@settings(max_examples=50)
@given(
    content=st.dictionaries(
        st.lists(part, min_size=1, max_size=4).map("/".join), st.binary(max_size=2000), max_size=5
    )
)
def test_any_files_are_unpacked_as_they_are(content: dict[str, bytes]) -> None:
    files = [StageFile(path, 0o755, content[path]) for path in sorted(content)]
    if not files:
        return
    with tarfile.open(fileobj=io.BytesIO(archive(files))) as tar:
        unpacked = {each.name: tar.extractfile(each) for each in tar if each.isfile()}
        assert {name: file and file.read() for name, file in unpacked.items()} == content


def test_the_folder_of_files_may_not_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("secret")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/files").symlink_to(tmp_path / "elsewhere")
    text = refused(tmp_path / "project/files", "secret")
    assert "files/secret: is a link that leads out of" in text
