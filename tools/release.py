"""Releases packages: versions, floors, changelogs, wheels, one commit and the tags.

    tools/hatch run dist:release [--dry-run] [kitae-core ...]

A package is released if it never was, if `changes/` of its folder holds fragments, or
if its version is ahead of its last tag. Named packages limit that. The types of the
fragments give the version: `breaking` the next major one (before 1.0: minor), `added`
the next minor one (before 1.0: patch), `changed` and `fixed` the next patch. Where a
release may break, or is above a cap, the packages that declare it are released too,
with the floor and the cap that go with it. Nothing is pushed.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from api import check_api, is_breaking
from check_namespace import ROOT, Package, read_packages
from packaging.requirements import Requirement
from packaging.version import Version
from trials import Refused, declared, releases, run
from wheels import build, inspect, needed

TYPES = ("breaking", "added", "changed", "fixed")
# Where a component is pinned at the version of this tree.
PINS = ("packages/*/README.md", "integration_tests/outside/*/pyproject.toml")


@dataclass
class Release:
    """One package that is to be released, and what leads to it."""

    package: Package
    version: Version
    last: Version | None
    fragments: list[Path]
    floors: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The git tag, such as `kitae-core-v0.2.0`."""
        return f"{self.package.name}-v{self.version}"

    @property
    def breaks(self) -> bool:
        """Whether what worked on the last release may fail on this one."""
        return self.last is not None and is_breaking(self.last, self.version)


def version_of(package: Package) -> Version:
    """The version that a package's pyproject says."""
    return Version(package.pyproject["project"]["version"])


def fragments_of(package: Package) -> list[Path]:
    """The changelog fragments of a package; Refused if one has no known type."""
    found = sorted((package.path / "changes").glob("[!.]*"))
    for path in found:
        parts = path.name.split(".")
        if len(parts) < 3 or parts[-1] != "md" or parts[1] not in TYPES:
            types = ", ".join(TYPES)
            raise Refused(f"{path.name} is not named <issue>.<type>.md, of {types}")
    return found


def bumped(last: Version, types: set[str]) -> Version:
    """The version after `last`, for changes of these types."""
    major, minor, patch = last.release
    if "breaking" in types:
        return Version(f"{major + 1}.0.0" if major else f"0.{minor + 1}.0")
    if "added" in types and major:
        return Version(f"{major}.{minor + 1}.0")
    return Version(f"{major}.{minor}.{patch + 1}")


def on_siblings(package: Package, names: Collection[str]) -> list[Requirement]:
    """What a package requires of the packages with these names."""
    return [
        requirement for requirement in declared(package) if requirement.name in names
    ]


def plan(packages: list[Package], chosen: list[str]) -> dict[str, Release]:
    """Decides what is to be released.

    Args:
        packages: all of the workspace.
        chosen: the names that limit it, or none.

    Returns:
        The releases by the package's name, each after those that it stands on.
    """
    planned: dict[str, Release] = {}
    for package in sorted(packages, key=lambda package: len(needed(package, packages))):
        floors = {}
        for requirement in on_siblings(package, planned):
            sibling = planned[requirement.name]
            new = sibling.version
            if sibling.breaks or new not in requirement.specifier:
                floors[requirement.name] = f">={new},<{new.major + 1}"
        last = max(releases(package.name), default=None)
        version, found = version_of(package), fragments_of(package)
        ready = last is None or version > last or found
        if not floors and not (ready and (not chosen or package.name in chosen)):
            continue
        if last is not None:
            types = {path.name.split(".")[1] for path in found}
            version = max(version, bumped(last, types))
        release = Release(package, version, last, found, floors)
        planned[package.name] = release
    return planned


def described(release: Release) -> str:
    """A release in words: its version and what leads to it, a line each."""
    lines = [f"{release.package.name} {release.last or 'unreleased'} -> {release.tag}"]
    lines += [f"  {sibling}{floor}" for sibling, floor in release.floors.items()]
    for path in release.fragments:
        text = path.read_text(encoding="utf-8").strip().splitlines()[0]
        lines.append(f"  {path.name.split('.')[1]}: {text}")
    return "\n".join(lines)


def substitute(path: Path, pattern: str, new: str) -> None:
    """Replaces what a pattern finds in a file; Refused if that is not one place."""
    text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"), flags=re.M)
    if count != 1:
        raise Refused(f"{path.relative_to(ROOT)} has {count} places for {new!r}, not 1")
    path.write_text(text, encoding="utf-8")


def write_changelog(release: Release) -> None:
    """Turns the fragments of a release, and what is unreleased, into its section."""
    package, heading = release.package, f"## {release.version} ("
    changelog = package.path / "CHANGELOG.md"
    for sibling, floor in release.floors.items():
        fragment = package.path / "changes" / f"+{sibling}.changed.md"
        fragment.write_text(f"Requires `{sibling}{floor}`.\n", encoding="utf-8")
    text = changelog.read_text(encoding="utf-8")
    if not release.fragments and not release.floors:
        text = text.replace(f"{heading}unreleased)", f"{heading}{date.today()})")
        changelog.write_text(text, encoding="utf-8")
    else:
        # What was written by hand goes on below what the fragments say.
        changelog.write_text(text.replace(f"{heading}unreleased)\n\n", ""), "utf-8")
        command = ("build", "--yes", "--config", ROOT / "pyproject.toml")
        names = ("--dir", package.path, "--name", package.name)
        version = ("--version", str(release.version))
        run(sys.executable, "-m", "towncrier", *command, *names, *version, cwd=ROOT)
    if f"{heading}{date.today()})" not in changelog.read_text(encoding="utf-8"):
        raise Refused(f"its CHANGELOG.md says nothing of {release.version}")


def write(release: Release) -> None:
    """Writes a release's version, floors, pins and changelog into the tree."""
    package, old = release.package, version_of(release.package)
    pyproject = package.path / "pyproject.toml"
    substitute(pyproject, '^version = ".*"$', f'version = "{release.version}"')
    for sibling, floor in release.floors.items():
        substitute(pyproject, f'"{sibling}[<>=!~][^"]*"', f'"{sibling}{floor}"')
    for path in (path for pattern in PINS for path in ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        pin = f"{package.name}=={old}"
        path.write_text(
            text.replace(pin, f"{package.name}=={release.version}"), "utf-8"
        )
    write_changelog(release)


def check(package: Package, packages: list[Package]) -> None:
    """Refuses a package that breaks its promise, or that its siblings are not for."""
    with tempfile.TemporaryDirectory(prefix="kitae-release-") as folder:
        allowed, lines = check_api(package, Path(folder))
    if not allowed:
        raise Refused("\n".join(lines))
    versions = {other.name: version_of(other) for other in packages}
    for requirement in on_siblings(package, versions):
        if (found := versions[requirement.name]) not in requirement.specifier:
            raise Refused(f"it requires {requirement}, and this tree has {found}")


def release_all(planned: dict[str, Release]) -> None:
    """Writes, builds, checks, commits and tags releases; all of them, or none."""
    if run("git", "status", "--porcelain", cwd=ROOT):
        raise Refused("there are changes that are not committed")
    current = ""
    try:
        for release in planned.values():
            current = release.package.name
            write(release)
        packages = read_packages(ROOT)
        for package in packages:
            current = package.name
            check(package, packages)
        written = {package.name: package for package in packages}
        for current in planned:
            wheel = build(written[current], ROOT / "dist")
            inspect(written[current], wheel)
            print(f"{current}: built {wheel.relative_to(ROOT)}", flush=True)
        shown = ", ".join(f"{name} {r.version}" for name, r in planned.items())
        run("git", "add", "--all", cwd=ROOT)
        run("git", "commit", "--quiet", "-m", f"Release {shown}", cwd=ROOT)
    except Refused as error:
        # There was nothing that was not committed: this loses what was written here.
        run("git", "reset", "--quiet", "--hard", cwd=ROOT)
        run("git", "clean", "--quiet", "-d", "--force", "packages", cwd=ROOT)
        raise Refused(f"{current}: {error}") from error
    for release in planned.values():
        run("git", "tag", "-a", release.tag, "-m", release.tag, cwd=ROOT)


def main() -> int:
    """Runs a release from the command line."""
    packages = read_packages(ROOT)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="show it only")
    parser.add_argument("packages", nargs="*", metavar="package")
    options = parser.parse_args()
    if unknown := set(options.packages) - {package.name for package in packages}:
        parser.error(f"no such package: {', '.join(sorted(unknown))}")
    try:
        planned = plan(packages, options.packages)
        for release in planned.values():
            print(described(release), flush=True)
        if not planned or options.dry_run:
            print(f"release: {len(planned)} packages would be released")
            return 0
        release_all(planned)
    except Refused as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"release: {len(planned)} packages tagged. To publish them, one by one:")
    print("  git push origin HEAD")
    print(*(f"  git push origin {r.tag}" for r in planned.values()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
