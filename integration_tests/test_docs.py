"""Every code block of README, CONTRIBUTING and docs runs as it stands.

The Python of a page runs in an environment that has the five wheels to install from,
and in it only what the page itself says to install. Pages of one folder that say the
same run one after another in one process, which imports JAX once.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from filelock import FileLock
from packaging.requirements import Requirement

from kitae.algos import cli
from kitae.base.xla import switches

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
]
# The page's own numbers make a training of half a minute: see test_tutorial.py.
SHORTENED = {"custom-agents.md": [("5*10**5", "5_000")]}


# What is run, what is looked up, what is read, and what is none of these.
LANGUAGES = {"python", "sh", "toml", "text"}


# What a page that names no whole package takes for granted: see the quick start.
EVERYTHING = "kitae-algos"
# With the filters of the other tests.
RUN = """
import os, runpy, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings(
    "ignore", "jax.core", DeprecationWarning, "tensorflow_probability"
)
for program in sys.argv[1:]:
    os.chdir(os.path.dirname(program))
    runpy.run_path(program)
"""


def name_of(page):
    return str(page.relative_to(ROOT))


def requirements_of(page):
    """What a page says to install, in blocks and between words."""
    lines = re.findall(r"\bpip install ([^`#\n]+)", page.read_text("utf-8"))
    found = {part for line in lines for part in shlex.split(line) if part[0] != "-"}
    ours = [r for r in map(Requirement, found) if r.name.startswith("kitae-")]
    if all(requirement.extras for requirement in ours):
        found.add(EVERYTHING)
    return sorted(found)


@pytest.fixture(scope="session")
def trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield importlib.import_module("trials")


@pytest.fixture(scope="session")
def python_with(trials, tmp_path_factory):
    """Returns the Python of an environment with some requirements and nothing else.

    Each is made once, for all processes that run tests.
    """
    mine = tmp_path_factory.getbasetemp()
    base = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    wheels = base / "wheels"
    # Byte code is kept by where a file lies: all environments are used at one place.
    place = mine / "venv"

    def once(folder, make):
        folder.mkdir(exist_ok=True)
        made = folder / "made"
        with FileLock(folder / "lock"):
            if not made.exists():
                made.write_text(str(make()))
        return Path(made.read_text())

    def build():
        for package in trials.read_packages(ROOT):
            trials.build_wheel(package, wheels)
        return wheels

    def python_with(requirements):
        once(wheels, build)
        folder = base / hashlib.sha256(repr(requirements).encode()).hexdigest()[:12]

        def install():
            python = trials.new_environment(folder)
            links = [f"--find-links={path.parent}" for path in wheels.rglob("*.whl")]
            trials.install(python, *links, *requirements, cwd=folder)
            return python

        python = once(folder, install)
        place.unlink(missing_ok=True)
        place.symlink_to(folder / "venv")
        return place / python.relative_to(folder / "venv")

    return python_with


def has_python(page):
    return "```python" in page.read_text("utf-8")


def pages_together():
    """The pages with Python, by what they say to install and by their folder."""
    found = {}
    for page in filter(has_python, PAGES):
        found.setdefault((*requirements_of(page), page.parent), []).append(page)
    return found.values()


def names_of(pages):
    return ", ".join(map(name_of, pages))


@pytest.mark.parametrize("pages", pages_together(), ids=names_of)
def test_python_blocks_run(pages, write_page, python_with, trials):
    programs = [write_page(page, SHORTENED.get(page.name, [])) for page in pages]
    python = python_with(requirements_of(pages[0]))
    trials.run(
        python,
        *("-P", "-c", RUN, *programs),
        cwd=programs[0].parent,
        JAX_COMPILATION_CACHE_DIR=jax.config.jax_compilation_cache_dir,
        PYTHONPYCACHEPREFIX=python.parents[2] / trials.BYTE_CODE,
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_in_a_language_that_nobody_checks(page):
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", page.read_text("utf-8"), re.M)
    openings, closings = fences[::2], fences[1::2]
    assert not any(closings), "a block that is not closed"
    # Those in braces are Sphinx's directives, which the site's build knows.
    assert {name for name in openings if not name.startswith("{")} <= LANGUAGES


def shell_commands():
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(tools/hatch run [^`\n]+)`", text)
        for line in dict.fromkeys(lines):
            yield pytest.param(line.split("#")[0].strip(), id=f"{page.name}: {line}")


@functools.cache
def help_of(*command):
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["kitae", *command, "--help"])
        with pytest.raises(SystemExit):
            cli.main()
    return said.getvalue()


@pytest.mark.parametrize("command", list(shell_commands()))
def test_shell_commands_name_what_exists(command):
    """They take minutes, or an index: so it is checked that there is such a thing."""
    words = command.split()
    while "=" in words[0]:
        variable, _, value = words.pop(0).partition("=")
        assert variable == switches.VARIABLE
        switches.switched_off(value)  # raises where it is no value of it
    match words:
        case ["tools/hatch", "run", script, *_]:
            envs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
                "hatch"
            ]["envs"]
            env, _, name = script.rpartition(":")
            assert name in envs[env or "default"]["scripts"]
        case ["pip", "install", *requirements]:
            packages = {path.name for path in (ROOT / "packages").iterdir()}
            for requirement in requirements:
                if not requirement.startswith("-"):
                    assert Requirement(requirement.strip('"')).name in packages
        case ["kitae", name, *words]:
            # Of an agent of one's own, the options are at least those of another.
            agent = ["dqn"] if name in ("train", "sweep") else []
            for option in [word for word in words if word.startswith("--")]:
                assert re.search(rf"{option}[ ,]", help_of(name, *agent))
        case ["python", "-m", module]:
            assert importlib.util.find_spec(f"{module}.__main__")
        case _:
            pytest.fail(f"nobody knows how to check {command!r}")


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text("utf-8")
        ):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_settings_are_such_that_they_are_read(tmp_path):
    from kitae.algos import DQN
    from kitae.algos.cli.settings import read_settings

    found = [
        text
        for page in PAGES
        for text in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.S)
    ]
    assert found
    for i, text in enumerate(found):
        path = tmp_path / f"{i}.toml"
        path.write_text(text, encoding="utf-8")
        assert read_settings(path, "dqn", DQN).env_kwargs["max_episode_steps"] == 300
