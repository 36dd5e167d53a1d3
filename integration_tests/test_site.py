"""What the built documentation holds; `tools/hatch run docs:test` builds it first."""

import ast
import importlib
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import kitae.algos

ROOT = Path(__file__).parent.parent
SITE = ROOT / "docs" / "_build" / "html"
MODULES = sorted(
    path.parent.name for path in ROOT.glob("packages/*/src/kitae/*/__init__.py")
)

pytestmark = pytest.mark.site


class Page(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = set(), set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and "href" in attrs:
            self.links.add(attrs["href"])


@pytest.fixture(scope="module")
def pages():
    return {path: Page(path) for path in SITE.rglob("*.html")}


@pytest.fixture(scope="module")
def found():
    """What a search for a full name finds: the page, and the place on it."""
    text = (SITE / "searchindex.js").read_text("utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return {
        f"{prefix}.{name}" if prefix else name: index["docnames"][page]
        for prefix, objects in index["objects"].items()
        for page, _, _, _, name in objects
    }


@pytest.mark.parametrize("module", MODULES)
def test_a_search_for_a_public_name_finds_its_page(module, found, pages):
    names = importlib.import_module(f"kitae.{module}").__all__
    for name in (f"kitae.{module}.{name}" for name in names):
        page = SITE / f"{found[name]}.html"
        assert name in pages[page].anchors
        assert page.is_relative_to(SITE / "api")


def imported_names(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kitae."):
                yield from (alias.name for alias in node.names)


def test_a_search_finds_every_name_that_a_page_imports(found):
    names = {name.rpartition(".")[2] for name in found}
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("**/README.md")]:
        assert set(imported_names(page)) <= names, page


AGENTS = [
    n for n in kitae.algos.__all__ if hasattr(getattr(kitae.algos, n), "factories")
]


@pytest.mark.parametrize("name", AGENTS)
def test_an_algorithm_has_a_page_with_all_of_its_parameters(name, pages):
    agent = getattr(kitae.algos, name)
    module = agent.__module__.rpartition(".")[2]
    page = SITE / "algorithms" / f"{module}.html"
    text = page.read_text("utf-8")
    for field in fields(agent.params_type):
        assert f'<span class="pre">{field.name}</span>' in text
    assert f"{agent.__module__}.update_step_factory" in pages[page].anchors


def test_every_page_is_in_the_contents(pages):
    contents = pages[SITE / "index.html"].links
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert name == "index.html" or name in contents


def test_links_within_the_site_lead_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            target, _, anchor = unquote(link).partition("#")
            there = (path.parent / target).resolve() if target else path
            assert there in pages, f"{path}: {link}"
            assert not anchor or anchor in pages[there].anchors, f"{path}: {link}"
