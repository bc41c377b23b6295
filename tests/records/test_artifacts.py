"""The work folder: files whole or absent, damaged ones noticed by any bit, set aside by name and made again."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genbench.errors import UsageError
from genbench.records.artifacts import StorageError, Work, is_inside, read_whole, write_whole

NAME, CONTENT = "run/model.pt", b"some weights"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path)
    work.save(NAME, CONTENT)
    return work


def test_every_flipped_bit_is_noticed(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / NAME
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert work._read_verified(NAME)[0] is None, f"bit {bit}"
    assert work.load(NAME) is None
    assert capsys.readouterr().err.startswith(f"genbench: {path} is damaged: ")
    assert (tmp_path / f"{NAME}.damaged").read_bytes() == flipped
    assert work.load(NAME) is None, "set aside, it is missing"
    assert capsys.readouterr().err == ""


def test_a_file_cut_anywhere_or_grown_is_noticed(work: Work, tmp_path: Path) -> None:
    path = tmp_path / NAME
    whole = path.read_bytes()
    for damaged in [*(whole[:n] for n in range(len(whole))), whole + b"\n", b"\0" + whole, CONTENT]:
        path.write_bytes(damaged)
        assert work._read_verified(NAME)[0] is None


def test_a_file_of_another_name_or_run_is_noticed(work: Work, tmp_path: Path) -> None:
    for other in ("run/checkpoint.pt", "other/model.pt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes((tmp_path / NAME).read_bytes())
        assert work.load(other) is None


def test_what_torch_saved_opens_as_it_lies(work: Work, tmp_path: Path) -> None:
    file, x = io.BytesIO(), torch.randn(100)
    torch.save({"x": x}, file)
    work.save(NAME, file.getvalue())
    assert torch.equal(torch.load(tmp_path / NAME, weights_only=True)["x"], x)
    assert work.load(NAME) == file.getvalue()


@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)], ids=["folder", "pipe", "link to itself"]
)
def test_what_is_no_file_is_set_aside_under_a_name_of_its_own(
    make: Callable[[Path], None], work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAME
    for number in ("", "-2", "-3"):
        path.unlink(missing_ok=True)
        make(path)
        assert work.load(NAME) is None
        assert os.path.lexists(f"{path}.damaged{number}")
        assert f"renamed to model.pt.damaged{number} " in capsys.readouterr().err
    make(path)
    work.save(NAME, CONTENT)
    assert work.load(NAME) == CONTENT


@pytest.mark.parametrize("where", ["{tmp}/work", "memory://genbench-test/pictures"])
def test_a_damaged_picture_is_written_again(where: str, tmp_path: Path) -> None:
    work = Work(where.format(tmp=tmp_path))
    name = work.put(b"picture", ".png")
    assert work.load(name) == b"picture"
    assert not work.is_damaged(name)
    work._files.pipe_file(work._path(name), b"Picture")
    assert work.is_damaged(name)
    assert work.load(name) is None
    assert work.is_damaged(name), "it is missing because it was damaged"
    assert work.put(b"picture", ".png") == name
    assert work.load(name) == b"picture"
    assert not work.is_damaged(name)
    work._files.pipe_file(work._path(name), b"Picture")
    work.put(b"picture", ".png")
    assert work.load(name) == b"picture", "what exists under its name is verified before it is taken for written"
    copy = Work(tmp_path / "copy")
    copy.save(name, b"picture")
    assert copy.load(name) == b"picture"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/../../up", "/etc/passwd", "a/..", "a\\..\\b", "C:/x", "a\0b", "\ud800"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, work: Work) -> None:
    assert not is_inside(name)
    for call in (work.load, work.remove, work.is_damaged, lambda name: work.save(name, b"")):
        with pytest.raises(UsageError, match="is refused"):
            call(name)


# ---------------------------------------------------------------------------------------------- errors of the system


def test_the_content_is_on_disk_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append("sync folder" if os.path.isdir(path) else f"sync {os.path.getsize(path)} bytes")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_whole(tmp_path / "x", b"12345")
    assert calls == ["sync 5 bytes", "rename", "sync folder"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("function", ["fsync", "replace", "open"])
def test_an_error_of_the_disk_names_the_file_and_leaves_the_old_one(
    code: int, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_whole(path, b"old")
    inode = path.stat().st_ino

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path if function == "open" else os, function, fail)
        with pytest.raises(StorageError) as error:
            write_whole(path, b"new")
    assert str(error.value) == f"{path} cannot be written: {os.strerror(code)}"
    assert error.value.errno == code
    assert path.read_bytes() == b"old"
    assert path.stat().st_ino == inode
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_whole(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_belongs_is_an_error_that_names_it(work: Work, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for call in (lambda: work.load("file/model.pt"), lambda: work.save("file/model.pt", b"")):
        with pytest.raises(StorageError, match=r"file/model\.pt cannot be (read: Not a directory|written: )"):
            call()


def test_reading_takes_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"folder, pipe or device|Is a directory"):
            read_whole(path)
