"""The wheel that travels with a job: built from the checkout, or given; unpacked before it is sent.

Why unpacked. Ray 2.60 takes a wheel in `py_modules`, and installs it on every node with `pip install --target`, which does not
see what the node has and fetches torch and all other dependencies again (ray._private.runtime_env.packaging.
install_wheel_package). `pip` in the runtime environment needs an index on every node. A wheel without compiled parts is a
folder, and as the job's working directory it stands first on every worker's path, before an older weakspot of the image.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import weakspot
from weakspot.errors import UserError

MOST_MIB = 90  # Ray's job server takes 100 MiB a package, whatever its documents say: a wheel has no weights in it


def find_wheel(given: str | None, scratch: Path) -> Path:
    """The wheel to ship: the given one, or one built from the checkout that this program runs from.

    Args:
        scratch: a folder to build in.

    Raises:
        UserError: it is not there, or is no wheel of weakspot; or none was given and none can be built.
    """
    if given is not None:
        return checked(Path(given).expanduser())
    root = checkout()
    if root is None:
        raise UserError(
            f"weakspot {weakspot.__version__} runs from an installed wheel, which cannot be packed again: give the file with "
            "--wheel (pip download --no-deps weakspot, or `python -m build --wheel` in a checkout)"
        )
    return build(root, scratch)


def checked(path: Path) -> Path:
    """A wheel of weakspot.

    Raises:
        UserError: it is none.
    """
    if not path.is_file():
        raise UserError(f"no wheel at {path}: build one with `python -m build --wheel`, or leave --wheel out in a checkout")
    try:
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile:
        raise UserError(f"{path} is no wheel: give the .whl file that `python -m build --wheel` makes") from None
    if "weakspot/cluster/arrive.py" not in names:
        raise UserError(f"{path} holds no weakspot that can be submitted: build it from this version's checkout")
    if (size := path.stat().st_size / 1024**2) > MOST_MIB:
        raise UserError(f"{path} has {size:.0f} MiB and Ray's job server takes 100: a wheel must hold no weights")
    return path


def checkout() -> Path | None:
    """The root of the source tree that this package runs from, or None for an installed wheel."""
    root = Path(weakspot.__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "cluster").is_dir() else None


def build(root: Path, scratch: Path) -> Path:
    """Build a wheel from a copy of the tree: setuptools writes build/ into it, and packs what an older build left there.

    Raises:
        UserError: it cannot be built; the last line of the builder stands in the message.
    """
    import tomllib

    copy = scratch / "source"
    copy.mkdir(parents=True)
    parts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    for folder in sorted({folder.split("/")[0] for folder in parts.values()}):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    # Not isolated: an isolated build fetches setuptools from an index. A user without it here gets the isolated one.
    why = ""
    for options in (["--no-build-isolation"], []):
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", str(scratch / "dist"), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            (built,) = (scratch / "dist").glob("*.whl")
            return built
        why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    raise UserError(f"no wheel could be built from {root} ({why[:200]}): build one yourself and give it with --wheel")


def unpack(wheel: Path, folder: Path) -> Path:
    """The working directory of a job: the wheel's content."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder
