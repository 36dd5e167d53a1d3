"""Files that are written whole or not at all, and read only if they are files."""

import errno
import os
import stat
from pathlib import Path

import pytest

from kitae.base.rundir import files
from kitae.base.rundir.files import new_file, open_end, read_file, write_file


def left():
    return sorted(path.name for path in Path().iterdir())


def test_a_file_is_replaced_whole_and_is_as_a_new_one():
    Path("new").write_text("")
    Path("kept.json").write_text("old")
    os.chmod("kept.json", 0o600)
    write_file(Path("kept.json"), "né")
    assert Path("kept.json").read_bytes() == "né".encode()
    modes = [stat.S_IMODE(os.stat(name).st_mode) for name in ("kept.json", "new")]
    assert modes[0] == modes[1]
    assert left() == ["kept.json", "new"]


def test_an_error_while_writing_leaves_the_old_file_alone():
    Path("kept.json").write_text("old")
    with pytest.raises(KeyError), new_file(Path("kept.json")) as file:
        {}[file.write(b"half")]
    assert Path("kept.json").read_text() == "old"
    assert left() == ["kept.json"]


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_an_error_of_the_disk_names_the_file_and_says_what_to_do(monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if name == "replace" else os, name, full)
    with pytest.raises(OSError, match=r"best\.toml could.*; free some space") as caught:
        write_file(Path("best.toml"), "x")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "best.toml"
    assert left() == []


def test_a_name_of_any_length_can_be_written():
    name = "é" * 127 + "x"  # 255 bytes, as long as a name may be
    write_file(Path(name), "content")
    assert left() == [name]


def test_no_more_is_read_than_may_be():
    Path("large").write_bytes(b"x" * 11)
    assert read_file(Path("large"), 11) == b"x" * 11
    with pytest.raises(ValueError, match="large is too large: it has 11 bytes"):
        read_file(Path("large"), 10)


def test_a_folder_is_not_a_file():
    Path("folder").mkdir()
    with pytest.raises(ValueError, match="folder is not a regular file"):
        read_file(Path("folder"), 10)
    with pytest.raises(OSError, match="folder"):
        open_end(Path("folder"))


def test_a_folder_that_cannot_be_renamed_is_copied(monkeypatch):
    def refused(self, target):
        if self.name == "kept":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        os.rename(self, target)

    Path("kept").mkdir()
    Path("kept/manifest").write_text("1")
    Path("kept/link").symlink_to("/etc")
    monkeypatch.setattr(Path, "rename", refused)
    files.move_folder(Path("kept"), Path("moved"), first="manifest")
    assert left() == ["moved"]
    assert Path("moved/manifest").read_text() == "1"
    assert Path("moved/link").is_symlink()
