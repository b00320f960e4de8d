"""The environment of every test, set before torch, ray or wandb can be imported."""

from __future__ import annotations

import os

from hypothesis import settings

from weakspot.cache import cache_root

os.environ.update(
    {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # two workers on two cores: more threads only wait for each other
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "offline",
        # Fixed here, so that a subprocess with another HOME shares it. The default is the user's own cache: models are
        # trained once per machine. Keys hold code, data and seed, so a changed trainer never meets an old model.
        "WEAKSPOT_CACHE": str(cache_root()),
    }
)

# No deadline: tests do not read clocks. The same examples every time: a red build can be repeated.
settings.register_profile("weakspot", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("weakspot")
