"""Every code block of README, CONTRIBUTING and docs runs as it stands."""

import functools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def name_of(page):
    return str(page.relative_to(ROOT))


def has_python(page):
    return "```python" in page.read_text("utf-8")


@pytest.mark.parametrize("page", list(filter(has_python, PAGES)), ids=name_of)
def test_python_blocks_run(page, run_page):
    run_page(page, SHORTENED.get(page.name, []))


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
    return subprocess.run(
        ["kitae", *command, "--help"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("command", list(shell_commands()))
def test_shell_commands_name_what_exists(command):
    """They take minutes, or an index: so it is checked that there is such a thing."""
    match command.split():
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
                    name = re.match(r'"?([a-z-]+)', requirement).group(1)
                    assert name in packages | {"distrax"}
        case ["kitae", name, *words]:
            # Of an agent of one's own, the options are at least those of another.
            agent = ["dqn"] if name in ("train", "sweep") else []
            for option in [word for word in words if word.startswith("--")]:
                assert re.search(rf"{option}[ ,]", help_of(name, *agent))
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
