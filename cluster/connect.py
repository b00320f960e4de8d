"""The way to a cluster's job server, with every refusal in one line.

Jobs go over HTTP to the dashboard's port (8265), never through Ray Client: nothing is pickled here, so the driver and its
workers all run the cluster's own Python and Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weakspot.errors import UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
HERE = "RAY_API_SERVER_ADDRESS"  # Ray's own variable for the address of the job server
NEEDS = "the job server's client is not installed: pip install 'weakspot[cluster]'"


def address_of(given: str | None) -> str:
    """The URL of the job server: what was given, or $RAY_API_SERVER_ADDRESS, or this machine's dashboard.

    Ray's client does it the other way round: its environment variables overrule the argument. The argument wins here.

    Raises:
        UserError: an address of Ray Client or of the GCS, which are other ports.
    """
    address = (given or os.environ.get(HERE) or DEFAULT_ADDRESS).rstrip("/")
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "http", "https"):
        raise UserError(f"--address {address}: jobs go to the dashboard over HTTP: give http://HOST:8265")
    return f"{scheme or 'http'}://{rest}"


def connect(given: str | None, *, same_version: bool = False) -> Any:
    """A `JobSubmissionClient` whose cluster answers.

    Args:
        same_version: whether the cluster must run the Ray that is installed here, as a submission must.

    Raises:
        UserError: nothing answers there, it is no job server, it wants a token, or it runs another Ray.
    """
    address = address_of(given)
    use_token_if_there_is_one()
    try:
        import ray
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise UserError(NEEDS) from None
    # Both overrule the argument in Ray 2.60 (dashboard.utils.get_address_for_submission_client).
    overruling = {name: os.environ.pop(name) for name in (HERE, "RAY_ADDRESS") if name in os.environ}
    sending = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
    for name in (f"ray.{module}" for module in sending):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with told(address):
            client = JobSubmissionClient(address)
    finally:
        os.environ.update(overruling)
    cluster = client._server_ray_version
    if same_version and cluster and minor(cluster) != minor(ray.__version__):
        raise UserError(
            f"the cluster at {address} runs Ray {cluster} and this machine {ray.__version__}: "
            f"install the same here (pip install 'ray[default]=={cluster}'), or renew the cluster"
        )
    return client


def use_token_if_there_is_one() -> None:
    """Ray 2.60 clusters ask for a token by default, and its client sends none until this variable says so."""
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if "RAY_AUTH_MODE" not in os.environ and (token or Path("~/.ray/auth_token").expanduser().is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into one line.

    Raises:
        UserError: instead of whatever it raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        kind = type(error).__name__
        if kind == "AuthenticationError":
            mode = os.environ.get("RAY_AUTH_MODE", "disabled")
            raise UserError(
                f"the cluster at {address} refuses the token (RAY_AUTH_MODE here is {mode}): put the cluster's into "
                "RAY_AUTH_TOKEN, or into ~/.ray/auth_token, with RAY_AUTH_MODE=token"
            ) from error
        if isinstance(error, ConnectionError | TimeoutError) or "Connection" in kind or "Timeout" in kind:
            raise UserError(
                f"no cluster answers at {address}: start one, or give --address http://HOST:8265 (a tunnel will do: "
                "ssh -L 8265:localhost:8265 HOST)"
            ) from error
        if "404" in text or "JSON" in kind or isinstance(error, KeyError):
            raise UserError(f"what answers at {address} is no job server of Ray: give the dashboard's address") from error
        if "does not exist" in text:
            raise UserError(f"{text[:200]}: `weakspot jobs` lists what the cluster at {address} knows") from error
        if "require the ray[default]" in text:
            raise UserError(NEEDS) from error
        raise UserError(f"the cluster at {address} refused: {text[:300]}") from error


def minor(version: str) -> tuple[str, ...]:
    """2.60.1 -> ("2", "60"): what must agree."""
    return tuple(version.split(".")[:2])
