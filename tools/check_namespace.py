"""Checks that the packages share the `kitae` namespace without hiding each other.

One `kitae/__init__.py` in any package hides the modules of all the others, and a
build only leaves it out of the wheel: an editable installation still has it. So this
refuses the file itself, and with it whatever else makes the folders, the wheels and
the declared requirements of the packages disagree:

    python tools/check_namespace.py [ROOT]

Prints one line per finding and exits with 1, or one closing line and 0. It needs
nothing beyond the standard library.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMESPACE = "kitae"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Package:
    """One distribution of the workspace, as its folder and its pyproject say."""

    path: Path
    pyproject: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's normalized name, such as `kitae-core`."""
        return normalized(self.pyproject["project"]["name"])

    @property
    def namespace(self) -> Path:
        """The folder that holds this package's part of the namespace."""
        return self.path / "src" / NAMESPACE

    @property
    def included(self) -> list[str]:
        """The folders that its wheel is told to take, relative to its own."""
        target = self.pyproject
        for key in ("tool", "hatch", "build", "targets", "wheel"):
            target = target.get(key, {})
        return list(target.get("only-include", []))

    @property
    def owned(self) -> list[str]:
        """The names it owns in the namespace, such as `base` for `kitae.base`."""
        if not self.namespace.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.namespace.iterdir()
            if entry.is_dir() and any(sources(entry))
        )

    @property
    def requirements(self) -> set[str]:
        """The normalized names of what it requires without any extra."""
        lines = self.pyproject["project"].get("dependencies", [])
        return {normalized(re.split(r"[^\w.-]", line.strip())[0]) for line in lines}


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it: `Kitae_Core` is `kitae-core`."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def sources(folder: Path) -> Iterator[Path]:
    """The files under a folder, less the byte code that running them leaves behind."""
    for path in sorted(folder.rglob("*")):
        hidden = path.name.startswith(".") or "__pycache__" in path.parts
        if path.is_file() and not hidden:
            yield path


def read_packages(root: Path) -> list[Package]:
    """The packages under `root/packages`, in the order of their names."""
    return [
        Package(path.parent, tomllib.loads(path.read_text(encoding="utf-8")))
        for path in sorted(root.glob("packages/*/pyproject.toml"))
    ]


def owners(packages: list[Package]) -> dict[str, Package]:
    """Who owns each name of the namespace; the first one, where two would."""
    found: dict[str, Package] = {}
    for package in packages:
        for name in package.owned:
            found.setdefault(name, package)
    return found


def siblings(package: Package, packages: list[Package]) -> set[str]:
    """The packages of the workspace that `package` itself declares."""
    return package.requirements & {other.name for other in packages}


def hiding_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Finds the files that would turn the namespace into one package's own."""
    for path in sorted(root.glob(f"packages/*/src/{NAMESPACE}/__init__.*")):
        yield path, "hides what the other packages own: remove it"


def stray_files(package: Package) -> Iterator[tuple[Path, str]]:
    """Finds what lies beside the owned subpackages instead of inside one."""
    for path in sources(package.path / "src"):
        inside = path.is_relative_to(package.namespace)
        hiding = path.match(f"src/{NAMESPACE}/__init__.*")
        if not hiding and not (inside and path.parent != package.namespace):
            yield path, f"lies outside the folders of src/{NAMESPACE}"


def bare_folders(package: Package) -> Iterator[tuple[Path, str]]:
    """Finds subpackages without the files that every one of them needs."""
    for name in package.owned:
        for needed in ("__init__.py", "py.typed"):
            if not (package.namespace / name / needed).is_file():
                yield package.namespace / name / needed, "is missing"


def inclusion(package: Package) -> Iterator[tuple[Path, str]]:
    """Finds where the folders and the wheel's `only-include` disagree."""
    owned = {f"src/{NAMESPACE}/{name}" for name in package.owned}
    for folder in sorted(owned - set(package.included)):
        yield package.path / folder, "is not in the wheel's only-include"
    for folder in sorted(set(package.included) - owned):
        yield package.path / "pyproject.toml", f"only-include names {folder}: none such"


def shared_names(packages: list[Package]) -> Iterator[tuple[Path, str]]:
    """Finds names of the namespace that two packages own."""
    first = owners(packages)
    for package in packages:
        for name in package.owned:
            if first[name] is not package:
                yield package.namespace / name, f"is owned by {first[name].name} too"


def imported(path: Path, namespace: Path) -> Iterator[tuple[int, str]]:
    """Each import of `kitae.<name>` in a file, as its line and that name."""
    here = [NAMESPACE, *path.relative_to(namespace).parent.parts]
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == NAMESPACE and len(target) > 1:
                yield node.lineno, target[1]


def undeclared_imports(
    package: Package, packages: list[Package]
) -> Iterator[tuple[Path, str]]:
    """Finds sibling imports that are not declared, and declared ones never used."""
    owner, own = owners(packages), set(package.owned)
    declared, used = siblings(package, packages), set()
    files = [p for p in sources(package.namespace) if p.suffix in (".py", ".pyi")]
    for path in files:
        try:
            imports = list(imported(path, package.namespace))
        except SyntaxError as error:
            yield path, f"cannot be read: {error.msg}, line {error.lineno}"
            continue
        for line, name in imports:
            if name not in owner:
                yield path, f"line {line}: no package owns {NAMESPACE}.{name}"
            elif name not in own:
                sibling = owner[name].name
                used.add(sibling)
                if sibling not in declared:
                    text = f"imports {NAMESPACE}.{name}, but {sibling} is not declared"
                    yield path, f"line {line}: {text}"
    for sibling in sorted(declared - used):
        yield package.path / "pyproject.toml", f"declares {sibling}, never imported"


def check(root: Path) -> list[str]:
    """Checks the packages under `root/packages`.

    Args:
        root: the root of the workspace, or of a copy of it.

    Returns:
        One line per finding, which names the file relative to `root`.
    """
    packages = read_packages(root)
    if not packages:
        return [f"packages: no packages under {root}"]
    findings = [*hiding_files(root), *shared_names(packages)]
    for package in packages:
        findings += stray_files(package)
        findings += bare_folders(package)
        findings += inclusion(package)
        findings += undeclared_imports(package, packages)
    return [f"{path.relative_to(root)}: {text}" for path, text in findings]


def main() -> int:
    """Runs the check from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=ROOT)
    root = parser.parse_args().root.resolve()
    findings = check(root)
    if findings:
        print(*findings, sep="\n")
        return 1
    packages = read_packages(root)
    names = sum(len(package.owned) for package in packages)
    print(
        f"{NAMESPACE}: {len(packages)} packages own {names} names, none hides another"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
