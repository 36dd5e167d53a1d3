"""The directory of a run on file systems that refuse something."""

import errno
import os
from pathlib import Path

import pytest

from kitae.base.rundir import directory as run_dir


def test_a_file_system_without_locks_is_told(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_dir.FileLock, "acquire", refused)
    with (
        pytest.raises(
            OSError, match=r"No locks available.*local disk.*\.lock"
        ) as caught,
        run_dir.locked(tmp_path),
    ):
        pass
    assert caught.value.errno == errno.ENOLCK
    assert not run_dir.is_locked(tmp_path)


def test_a_config_that_cannot_be_written_leaves_no_empty_one(helpers, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = helpers.make_config(helpers.count_envs())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"config\.json could not be written"):
        run_dir.new_run_dir(run_dir.runs_root(), "run", config)
    assert list(Path("runs/run").iterdir()) == []
