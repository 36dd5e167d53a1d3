"""Compares each package's public names and signatures with its last release.

    tools/hatch run api:check

Public is what the public modules name in `__all__`. A name that is gone, or a signature
that old calls do not fit, needs a major version; before 1.0, a minor one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import griffe
from check_namespace import NAMESPACE, ROOT, Package, read_packages
from packaging.version import Version
from trials import named, releases, tree_at

# A constant's value is no part of a signature.
IGNORED = {griffe.BreakageKind.ATTRIBUTE_CHANGED_VALUE}


def is_breaking(old: Version, new: Version) -> bool:
    """Whether a version may break what the older one promised."""
    if old.major == 0:
        return (new.major, new.minor) > (old.major, old.minor)
    return new.major > old.major


def load(package: Package, name: str) -> griffe.Module:
    """The names of one of a package's subpackages, read without running anything."""
    loader = griffe.GriffeLoader(
        search_paths=[package.path / "src"], allow_inspection=False
    )
    found = loader.load(f"{NAMESPACE}.{name}")
    loader.resolve_aliases(implicit=True, external=False)
    return found


def exported(module: griffe.Module) -> set[str]:
    """The names in `__all__` of a module and of the public modules below it."""
    names = {f"{module.path}.{name}" for name in module.exports or ()}
    below = [m for m in module.modules.values() if not m.name.startswith("_")]
    return names.union(*map(exported, below))


def described(breakage: griffe.Breakage) -> str:
    """A breakage in words, with the parameter that it is about."""
    text = f"{breakage.obj.canonical_path}: {breakage.kind.value.lower()}"
    parameter = breakage.old_value or breakage.new_value
    return f"{text}: {parameter.name}" if "PARAMETER" in breakage.kind.name else text


def changes(old: Package, new: Package) -> list[str]:
    """What a user of the old package would miss in the new one, a line each."""
    found = []
    for name in old.owned:
        if name not in new.owned:
            found.append(f"{NAMESPACE}.{name}: was removed")
            continue
        before, now = load(old, name), load(new, name)
        gone = sorted(exported(before) - exported(now))
        found += [f"{path}: is in __all__ no more" for path in gone]
        for breakage in griffe.find_breaking_changes(before, now):
            if breakage.kind not in IGNORED:
                found.append(described(breakage))
    return list(dict.fromkeys(found))


def check_api(package: Package, folder: Path) -> tuple[bool, list[str]]:
    """Compares a package with its last release.

    Args:
        package: the package, as it is in this tree.
        folder: a folder to unpack the release in.

    Returns:
        Whether its version allows what changed, and what there is to say, line by line.
    """
    released = releases(package.name)
    if not released:
        return True, [f"{package.name}: no release yet, nothing to compare with"]
    version, tag = list(released.items())[-1]
    old = named(read_packages(tree_at(tag, folder)), package.name)
    new = Version(package.pyproject["project"]["version"])
    if not (found := changes(old, package)):
        return True, [f"{package.name}: {new} keeps all that {version} promised"]
    allowed = is_breaking(version, new)
    verb = "may break" if allowed else "must not break"
    lines = [f"{package.name}: {new} {verb} what {version} promised:"]
    return allowed, lines + [f"  {line}" for line in found]


def main() -> int:
    """Runs the check from the command line."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    fine = True
    with tempfile.TemporaryDirectory(prefix="kitae-api-") as folder:
        for package in read_packages(ROOT):
            allowed, lines = check_api(package, Path(folder))
            print(*lines, sep="\n", flush=True)
            fine &= allowed
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
