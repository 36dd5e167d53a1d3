"""What the site needs beside Sphinx's own: small things, each a function or a class.

- In Markdown and in docstrings alike, `code` that is the name of something public leads
  to its page.
- The reference shows signatures without what flax adds to them, and named tuples
  without a second list of their fields.
- The directive `parameters` makes the table of a dataclass's fields.
- A page in `docs/` that `index.md` does not name is in its contents all the same.
"""

import inspect
import re
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import griffe
from docutils import nodes
from flax import linen as nn
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

NAME = re.compile(r"(kitae\.)?[A-Za-z_][\w.]*(\(\))?")
NO_LINK_INSIDE = (nodes.reference, nodes.title, addnodes.desc_signature)


class LinkNames(SphinxPostTransform):
    """Makes a link of each literal that is the name of something documented."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: Any) -> None:
        """Goes through one page."""
        known = self._known()
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            target = known.get(text.removesuffix("()"))
            if target and NAME.fullmatch(text) and not _inside_link(literal):
                link = addnodes.pending_xref(
                    "",
                    refdomain="py",
                    reftype="obj",
                    reftarget=target,
                    refexplicit=True,
                )
                literal.replace_self(link)
                link += literal

    def _known(self) -> dict[str, str]:
        """Returns full names by themselves, and by what follows their module."""
        domain = self.env.domains.python_domain
        known: dict[str, str] = {name: name for name in domain.objects}
        for name, entry in domain.objects.items():
            inside = name.removeprefix(_module_of(name, domain.modules)).lstrip(".")
            # Methods are `Class.method`; aliases and what is in many modules would
            # lead to any of them.
            if inside and not entry.aliased and "_factory" not in inside:
                known.setdefault(inside, name)
        return known


def _module_of(name: str, modules: Any) -> str:
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _inside_link(node: nodes.Node) -> bool:
    while node := node.parent:
        if isinstance(node, NO_LINK_INSIDE):
            return True
    return False


class Parameters(SphinxDirective):
    """The fields of a dataclass: names, defaults, and what their docstrings say."""

    required_arguments = 1
    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """Makes the table."""
        kind = resolve_name(self.arguments[0])
        meaning = meanings(kind)
        rows = ["| name | default | meaning |", "|---|---|---|"]
        for field in fields(kind):
            text = meaning[field.name].replace("|", r"\|")
            rows.append(f"| `{field.name}` | `{field.default!r}` | {text} |")
        made = self.parse_text_to_nodes("\n".join(rows))
        for node in made:
            node["classes"].append("parameters")
        return made


def meanings(kind: type) -> dict[str, str]:
    """Returns what a class and its bases say of their attributes, in one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for section in griffe.Docstring(base.__doc__ or "").parse("google"):
            if section.kind is griffe.DocstringSectionKind.attributes:
                for attribute in section.value:
                    found[attribute.name] = " ".join(attribute.description.split())
    return found


class Named:
    """A function among defaults: its name is shown, not its place in memory."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __repr__(self) -> str:
        return self.function.__name__


def sign_flax_modules(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: Any, *_: Any
) -> tuple[str, None] | None:
    """Leaves out what flax adds to the arguments of each of its modules."""
    if what != "class" or not issubclass(obj, nn.Module):
        return None
    own = [
        parameter.replace(default=_named(parameter.default))
        for name, parameter in inspect.signature(obj).parameters.items()
        if name not in ("parent", "name")
    ]
    signature = inspect.Signature(own)
    return stringify_signature(signature, unqualified_typehints=True), None


def _named(default: Any) -> Any:
    is_function = callable(default) and default is not inspect.Parameter.empty
    return Named(default) if is_function else default


def skip_field_aliases(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out the fields of named tuples, which their class's docstring has."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def anchor_aliases(app: Sphinx, doctree: nodes.document) -> None:
    """Lets what is imported be found by the name of its own module too.

    Sphinx knows both names, but pages of source lead to the second one, which would be
    no place on the page.
    """
    other_names = {
        entry.node_id: name
        for name, entry in app.env.domains.python_domain.objects.items()
        if entry.aliased and entry.docname == app.env.docname
    }
    for signature in doctree.findall(addnodes.desc_signature):
        ids = signature["ids"]
        ids += [other_names[name] for name in ids if name in other_names]


def keep_aliases_here(app: Sphinx, module: str, name: str) -> str | None:
    """Says that the source of an alias is where it is named, not where `dict` is."""
    return module if module == "kitae.types" else None


def name_other_pages(app: Sphinx, docname: str, content: list[str]) -> None:
    """Puts the pages that `index.md` does not name where it says `(other pages)`."""
    if docname == "index":
        named = set(content[0].splitlines()) | {"index"}
        pages = sorted(page.stem for page in Path(app.srcdir).glob("*.md"))
        others = [page for page in pages if page not in named]
        content[0] = content[0].replace("(other pages)", "\n".join(others))


def setup(app: Sphinx) -> dict[str, Any]:
    """Tells Sphinx of all of it."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # as the docstrings call them
    app.add_post_transform(LinkNames)
    app.add_directive("parameters", Parameters)
    app.connect("autodoc-process-signature", sign_flax_modules)
    app.connect("autodoc-skip-member", skip_field_aliases)
    app.connect("doctree-read", anchor_aliases)
    app.connect("viewcode-follow-imported", keep_aliases_here)
    app.connect("source-read", name_other_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
