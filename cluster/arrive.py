"""The first thing that runs on the cluster: is this a place where an audit can run? One line says why not.

Written for any Python 3.8 or newer, with nothing but the standard library: it must be able to complain about an older one.
"""

from __future__ import annotations

import os
import sys

USER_ERROR = 2
PYTHON = (3, 11)


def complaint(client_python: str) -> str:
    """What keeps an audit from running here, or an empty string."""
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        need = ".".join(map(str, PYTHON))
        return (
            f"the cluster runs Python {here} ({sys.executable}), this client {client_python}, and weakspot needs {need}: "
            "use an image with a newer Python, or name another interpreter with --python"
        )
    lacking = missing()
    if lacking:
        return (
            f"the cluster's Python ({sys.executable}) lacks {', '.join(lacking)}: install what is missing into its image, or "
            "name another interpreter with --python"
        )
    return ""


def note(client_python: str) -> str:
    """What a reader of the log should know though nothing is wrong with it."""
    here = ".".join(map(str, sys.version_info[:2]))
    if client_python and here != ".".join(client_python.split(".")[:2]):
        return f"the cluster runs Python {here} and this client {client_python}: the audit runs in the cluster's"
    return ""


def missing() -> list[str]:
    """What the shipped wheel needs and this interpreter has not, or has in another version."""
    from importlib.metadata import PackageNotFoundError, requires, version

    lacking = []
    for line in requires("weakspot") or []:
        if "extra ==" in line:
            continue
        requirement = line.split(";")[0].strip()
        try:
            from packaging.requirements import Requirement

            wanted = Requirement(requirement)
            fits = wanted.specifier.contains(version(wanted.name), prereleases=True)
        except PackageNotFoundError:
            fits = False
        except ImportError:  # packaging is not part of Python; ray brings it
            return ["packaging"]
        if not fits:
            lacking.append(requirement)
    return lacking


def main() -> int:
    client_python = os.environ.get("WEAKSPOT_CLIENT_PYTHON", "")
    wrong = complaint(client_python)
    for line in (wrong, note(client_python) if not wrong else ""):
        if line:
            print("weakspot: " + line, file=sys.stderr, flush=True)
    return USER_ERROR if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
