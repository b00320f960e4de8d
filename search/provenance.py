"""What produced a result: versions, commit, machine, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import weakspot

PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "numpy", "tokenizers", "safetensors")


def now() -> str:
    """UTC time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Installed versions of what can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with `+dirty` when it was changed; None for an installed wheel."""
    root = Path(weakspot.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return run.stdout.strip()


def machine() -> dict[str, Any]:
    """The machine in words that explain a speed, without naming it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    """Models of the NVIDIA GPUs that the driver shows."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = [line for line in file.read_text().splitlines() if line.startswith("Model")]
        found += [line.split(":", 1)[1].strip() for line in lines]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def command() -> str:
    """The command line as a user would type it."""
    program = Path(sys.argv[0]).name
    return " ".join(["weakspot" if program in ("main.py", "weakspot") else program, *sys.argv[1:]])
