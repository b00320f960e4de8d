"""How large the GPUs are, here or on the cluster, before anything is started on them."""

from __future__ import annotations

import logging
from typing import Any

from weakspot.search.ray_backend import on_cluster

ANSWER = 120.0  # seconds for the nodes to answer: a worker is started on each, and torch loaded there


def smallest_gpu() -> float | None:
    """Bytes of the smallest GPU that a trial may be given; 0 where this machine has none, None where it is not known.

    On a cluster each node that has GPUs is asked. Unmeasured: no GPU was at hand.
    """
    sizes = asked() if on_cluster() else here()
    if sizes:
        return min(sizes)
    return None if on_cluster() else 0.0


def here() -> list[float]:
    """Bytes of each GPU of this machine."""
    import torch

    return [float(torch.cuda.get_device_properties(i).total_memory) for i in range(torch.cuda.device_count())]


def asked() -> list[float]:
    """Bytes of each GPU of the cluster, as far as its nodes answer. Joins Ray and leaves it again."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A task without a GPU sees all of them, unless this variable hides them.
    environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
    ray.init(logging_level=logging.ERROR, log_to_driver=False)
    try:
        task: Any = ray.remote(num_cpus=0, num_gpus=0, max_calls=1, runtime_env=environment)(here)
        running = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("GPU", 0) > 0
        ]
        return [size for sizes in ray.get(running, timeout=ANSWER) for size in sizes]
    except RayError:
        return []
    finally:
        ray.shutdown()
