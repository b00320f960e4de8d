"""The Ray backend: Tune runs the plan's jobs on reused workers; weights travel once, through the object store.

What Tune is trusted with: workers, resources, concurrency, a dead worker's trial. What it is not: the truth about what was
proposed and found, which lives in the study (see shared/ray-notes.md for the measurements behind every setting here).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError

from weakspot.cache import NotCachedError, only_cached
from weakspot.errors import UserError, WeakspotError
from weakspot.models import arrays_digest, read_weights
from weakspot.search.capacity import Capacity
from weakspot.search.desk import Desk, PlanScheduler, PlanSearcher
from weakspot.search.jobs import BASE
from weakspot.search.judging import Stressed, stress_judges
from weakspot.search.parcels import pack
from weakspot.search.plan import Plan
from weakspot.search.prepare import SubjectSpec, prepare, reference_utility
from weakspot.search.remote import here, prepare_remotely, received, reference_remotely, stress_remotely
from weakspot.search.trainable import ENVIRONMENT, AttackTrainable

GIB = 1024**3


@dataclass
class RayBackend:
    """Runs on Ray: a cluster if RAY_ADDRESS names one, else this machine.

    Attributes:
        workers: trials at a time; None for as many as fit, on a cluster that may grow and shrink.
        threads: CPUs of each; OMP_NUM_THREADS is set to it, because two workers with two threads each on two cores crawl.
        gpus: GPUs of each, possibly a fraction; None for what is there, at most one; above one, each is a rank of its own
            (search/team.py). Unmeasured: no GPU was at hand.
        object_store_gib: room for the subjects' weights.
        wait: seconds to wait for a node that a trial fits on, on a cluster that is still starting.
    """

    testbed: str
    testbed_seed: int
    workers: int | None
    threads: int
    gpus: float | None = None
    object_store_gib: float = 0.25
    wait: float = 0.0

    def __post_init__(self) -> None:
        os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
        logging.getLogger("ray").setLevel(logging.ERROR)
        self.remote = on_cluster()
        self.workers = self.workers or (None if self.remote else 1)
        self.ranks = max(1, int(self.gpus or 1))
        local = {} if self.remote else {
            "num_cpus": (self.workers or 1) * self.threads * self.ranks,
            "object_store_memory": int(self.object_store_gib * GIB),
            "include_dashboard": False,
        }  # fmt: skip
        self.started_ray = not ray.is_initialized()
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            context = ray.init(
                runtime_env={"env_vars": self.environment()}, logging_level=logging.ERROR, log_to_driver=False,
                configure_logging=True, ignore_reinit_error=True, namespace=os.environ.get("WEAKSPOT_JOB"), **local,
            )  # fmt: skip
        except Exception as error:  # Ray 2.60 raises a bare Exception where its processes take too long to start
            raise UserError(no_ray(error, self.remote)) from error
        self.dashboard = dashboard_url(context)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own in place, which ends the driver without a word
        if self.gpus is None:
            there = ray.cluster_resources().get("GPU", 0)
            self.gpus = min(1.0, there / (self.workers or max(there, 1)))  # unmeasured: no GPU was at hand
        self.bundle = {"CPU": float(self.threads), **({"GPU": min(1.0, self.gpus)} if self.gpus else {})}
        self.capacity = Capacity(self.bundle, self.workers, self.ranks)
        self.check_resources()

    def environment(self) -> dict[str, str]:
        """The variables of every worker.

        Those that the job was submitted with are left out: Ray 2.60 refuses a variable that both name, even with one value
        (ray.runtime_env._merge_runtime_env). Where the cache is on a cluster, each node's own environment says.
        """
        wanted = {**ENVIRONMENT, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        if not self.remote:
            wanted |= {name: os.environ[name] for name in ("WEAKSPOT_CACHE", "XDG_CACHE_HOME") if name in os.environ}
        submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {}).get("env_vars", {})
        return {name: value for name, value in wanted.items() if name not in submitted}

    def check_resources(self) -> None:
        """Tune waits for ever for what a cluster does not have; say it before.

        Raises:
            UserError: one trial asks for more than any node has.
        """
        until = time.monotonic() + self.wait
        while not (fits := self.capacity.places()) and time.monotonic() < until:
            time.sleep(1)
        if fits:
            return
        most = self.capacity.largest()
        waited = f" after {self.wait:.0f} s" if self.wait else ""
        lacking = next((name for name in self.bundle if self.bundle[name] > most.get(name, 0)), None)
        if lacking is None:
            each = " and ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())
            raise UserError(
                f"a trial asks for {self.ranks} times {each} and the cluster has less{waited}: lower --gpus, or add nodes"
            )
        raise UserError(
            f"a trial asks for {self.bundle[lacking]:g} {lacking} and no node of the cluster has more than "
            f"{most.get(lacking, 0):g}{waited}: ask for less, or add a node that has it"
        )

    def prepare(self, specs: Sequence[SubjectSpec]) -> tuple[dict[str, Path], Mapping[str, float]]:
        """Folders by subject, and the base's benign score by stage; what does not depend on each other runs side by side.

        What is cached is found from here: a worker that imports torch to say so would cost ten seconds.
        """
        try:
            with only_cached():
                folders = {spec.name: prepare(self.testbed, self.testbed_seed, spec) for spec in specs}
                return folders, reference_utility(self.testbed, self.testbed_seed, folders[BASE])
        except NotCachedError:
            return self._prepare_remotely(specs)

    def _prepare_remotely(self, specs: Sequence[SubjectSpec]) -> tuple[dict[str, Path], Mapping[str, float]]:
        options: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": 1 if self.gpus else 0}  # a safeguard has a whole one
        run: Any = prepare_remotely.options(**options)
        score: Any = reference_remotely.options(**options)
        home, where = here(), (self.testbed, self.testbed_seed)
        built = [spec for spec in specs if not spec.checkpoint]
        running = {spec.name: run.remote(*where, spec, home) for spec in built if not spec.depends_on_base}
        base = received(self._get(running[BASE]))
        parcel = self.parcel(base)
        running |= {spec.name: run.remote(*where, spec, home, parcel) for spec in built if spec.depends_on_base}
        reference = score.remote(*where, str(base), parcel)
        folders = {
            spec.name: received(self._get(running[spec.name])) if spec.name in running else prepare(*where, spec)
            for spec in specs
        }
        return folders, self._get(reference)

    def parcel(self, folder: Path) -> Any:
        """A folder for nodes that do not see this one's disk: a reference into the object store; None on one machine."""
        return ray.put(pack(folder)) if self.remote else None

    def stress_judges(self) -> Stressed:
        """In a worker, where judges and their weights are needed anyway, unless it was done before."""
        try:
            with only_cached():
                return stress_judges(self.testbed, self.testbed_seed)
        except NotCachedError:
            return self._get(stress_remotely.options(num_cpus=self.threads).remote(self.testbed, self.testbed_seed))

    def _get(self, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, WeakspotError):
                raise error.cause from None
            raise

    def run(self, plan: Plan, folders: Mapping[str, Path], reference: Mapping[str, float]) -> None:
        """Carry out a plan to its end."""
        arrays = {name: read_weights(folder) for name, folder in folders.items()}
        shared = {
            "testbed": self.testbed,
            "testbed_seed": self.testbed_seed,
            "checkpoint": str(folders[BASE]),
            "parcel": [self.parcel(folders[BASE])],
            "weights": {name: [ray.put(values)] for name, values in arrays.items()},
            "digests": {name: arrays_digest(values) for name, values in arrays.items()},
            "reference": dict(reference),
            "threat": plan.threat,
            "defenses": plan.defenses,
            "ranks": self.ranks,
            "bundle": self.bundle,
        }
        del arrays
        desk = Desk(plan, lambda: max(1, self.capacity.places()), self.capacity.alive, lenient=self.remote)
        trainable = tune.with_resources(
            tune.with_parameters(AttackTrainable, shared=shared), tune.PlacementGroupFactory([self.bundle] * self.ranks)
        )
        with tempfile.TemporaryDirectory(prefix="weakspot-tune-") as scratch:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    metric="harm", mode="max", search_alg=PlanSearcher(desk), scheduler=PlanScheduler(desk), num_samples=-1,
                    reuse_actors=True,  # how many at a time is the desk's business: a cluster may grow
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch, name="audit", verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # else a call and a folder a trial
                ),
            )  # fmt: skip
            try:
                tuner.fit()
            except Exception:
                if not plan.halted:  # then Tune was left on purpose
                    raise
        if desk.error is not None:
            raise desk.error

    def close(self) -> None:
        """Stop the Ray that was started here, and no other."""
        if self.started_ray:
            ray.shutdown()


def on_cluster() -> bool:
    """Whether there is a Ray to join, instead of one to start."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


def dashboard_url(context: Any) -> str:
    """Where a browser finds Ray's dashboard, or nothing where none runs (here none is started; ray[default] has it)."""
    place = getattr(context, "dashboard_url", "") or ""
    return place if not place or "://" in place else f"http://{place}"


def no_ray(error: Exception, remote: bool) -> str:
    """Why Ray cannot be used, in one line."""
    why = str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
    todo = (
        "is the cluster up, with the same Ray and Python as here?"
        if remote
        else "is the machine busy? --backend inline needs no Ray"
    )
    return f"Ray did not start ({why}): {todo}"
