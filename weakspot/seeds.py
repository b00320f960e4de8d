"""Randomness with names. One root seed gives every other seed, each by the name of what it is for.

The search seed (which configurations are proposed), the training seeds (initialisation, data order) and the confirmation
seeds are different things: two of them never share a stream, whatever the root.
"""

from __future__ import annotations

import hashlib
import random


def derive(root: int, *names: object) -> int:
    """A 31-bit seed from a root and a path of names. Stable across processes, platforms and Python versions."""
    text = "/".join(map(str, (root, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices). For the start of a trial, where a reused worker carries old state."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
