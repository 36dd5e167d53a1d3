"""CSV files that a resumed run continues, on a full disk and with bad rows."""

import errno
import os
from pathlib import Path

import pytest

from kitae.base.rundir.tables import Table, rows_until


def test_a_table_on_a_full_disk_keeps_whole_rows_only(monkeypatch):
    table = Table(Path("metrics.csv"), ["env_step"], [])
    table.write([{"env_step": 1}])
    write, calls = os.write, []

    def full(descriptor, content):
        calls.append(content)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:4])

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"metrics\.csv could not .* free some space"):
            table.write([{"env_step": 123_456}])
    assert Path("metrics.csv").read_bytes() == b"env_step\r\n1\r\n"
    table.write([{"env_step": 2}])
    table.close()
    assert Path("metrics.csv").read_bytes() == b"env_step\r\n1\r\n2\r\n"


def test_rows_stay_until_a_table_is_continued():
    Path("metrics.csv").write_text("env_step\r\n10\r\n20\r\n")
    kept = rows_until(Path("metrics.csv"), 10)
    Table(Path("metrics.csv"), ["env_step"], kept).close()
    assert Path("metrics.csv").read_text() == "env_step\n10\n20\n"
    table = Table(Path("metrics.csv"), ["env_step"], kept)
    table.sync()
    table.close()
    assert Path("metrics.csv").read_text() == "env_step\n10\n"


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "1e200", "1" * 5_000])
def test_a_row_without_its_numbers_is_damage(value):
    Path("episodes.csv").write_text(f"env_step,return\n1,{value}\n")
    with pytest.raises(ValueError, match=r"episodes\.csv is damaged") as caught:
        rows_until(Path("episodes.csv"), 10, ["return"])
    assert len(str(caught.value)) < 400
