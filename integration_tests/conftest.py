import contextlib
import re
import runpy
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # the documentation's tests do without it
    from hypothesis import settings

    # As `hatch run fuzz` asks for it.
    settings.register_profile("fuzz", max_examples=2_000)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _inside_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def write_page(tmp_path_factory):
    """Writes the Python of a Markdown page as one program, and returns its path.

    The program is alone in its folder.
    """

    def write(page, changes=()):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
        program = "\n".join(blocks)
        for old, new in changes:
            assert old in program, f"{page} has no {old!r} to replace"
            program = program.replace(old, new)
        script = tmp_path_factory.mktemp(page.stem) / f"{page.stem}.py"
        script.write_text(program, encoding="utf-8")
        return script

    return write


@pytest.fixture(scope="session")
def run_page(write_page):
    """Runs the Python of a Markdown page as one program, and returns its names."""
    return lambda *page: runpy.run_path(str(write_page(*page)))
