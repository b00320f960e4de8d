"""The values that an answer of the fictional world could have had: what a forced choice is between.

They stand apart from the testbeds because they are no part of what a base model or a safeguard is made from.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from weakspot.data import Example
from weakspot.testbeds.world import BAKE_POOLS, BREW_POOLS, World


@runtime_checkable
class RendersWorld(Protocol):
    """A testbed that renders the fictional world holds it."""

    world: World


def options_of(testbed: Any, example: Example) -> tuple[tuple[str, ...], ...]:
    """The pool of each answer on a testbed of the fictional world; empty on every other."""
    if not isinstance(testbed, RendersWorld):
        return ()
    return tuple(next(pool for pool in (*BREW_POOLS, *BAKE_POOLS) if answer in pool) for answer in example.answers)
