"""Preparing on workers: what the Ray backend runs before the trials, each in a process of its own.

A worker may stand on a node without the driver's disk: what it builds on is handed to it, and what it has built is handed back
(search/parcels.py). On the driver's own node nothing is packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from weakspot.search.judging import Stressed, stress_judges
from weakspot.search.parcels import Parcel, pack, present, unpack
from weakspot.search.prepare import SubjectSpec, prepare, reference_utility
from weakspot.search.trainable import quieten

RETRIES = 5  # of a preparation whose node was lost: it may take hours, and spot instances go


@ray.remote(max_calls=1, max_retries=RETRIES)  # a worker that trained keeps its memory: let it go before the trials start
def prepare_remotely(testbed: str, seed: int, spec: SubjectSpec, home: str, base: Parcel | None = None) -> str | Parcel:
    """The folder of a subject's weights; packed, unless this runs on the node `home`."""
    quieten()
    if base is not None:
        unpack(base)
    folder = prepare(testbed, seed, spec)
    return str(folder) if here() == home else pack(folder)


@ray.remote(max_calls=1, max_retries=RETRIES)
def reference_remotely(testbed: str, seed: int, base: str, parcel: Parcel | None = None) -> Mapping[str, float]:
    quieten()
    return reference_utility(testbed, seed, present(base, parcel))


@ray.remote(max_calls=1, max_retries=RETRIES)
def stress_remotely(testbed: str, seed: int) -> Stressed:
    quieten()
    return stress_judges(testbed, seed)


def here() -> str:
    """Ray's id of the node that this runs on."""
    return ray.get_runtime_context().get_node_id()


def received(answer: Any) -> Path:
    """What `prepare_remotely` answered, as a folder on this machine."""
    return unpack(answer) if isinstance(answer, Parcel) else Path(answer)
