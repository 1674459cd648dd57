"""Ray, started or joined: on this machine alone, or a cluster by its address. Nothing is reported to Ray's makers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported, and by the processes that it starts
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let every other program of the machine go first

import ray

from vqrae.runtimes.errors import RuntimeUnavailable

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a Ray that runs here alone: requests and results pass through it, images do not stay."""

_TOKENS = "ray._private.authentication.authentication_token_setup"
"""Says at each start that only this user's processes may join, and how to change that."""


@contextmanager
def cluster(address: str | None, *, cpus: int) -> Iterator[None]:
    """Ray for the length of the block.

    Args:
        address: of a running cluster, as `ray.init` takes it; None starts one here, which ends with the block.
        cpus: what a Ray that is started counts as its own.

    Raises:
        RuntimeUnavailable: it does not start, or there is none at the address.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger(_TOKENS).setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else cpus,
            object_store_memory=None if address else OBJECT_STORE_BYTES,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        where = f"a cluster at {address}" if address else "Ray on this machine"
        raise RuntimeUnavailable("ray", got=str(error), expected=where) from error
    try:
        yield
    finally:
        ray.shutdown()
