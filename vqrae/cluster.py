"""Ray, started or joined: on this machine alone, or a cluster by its address. Nothing is reported to Ray's makers."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    handler = signal.getsignal(signal.SIGTERM)
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
    except SystemExit as error:  # Ray's own handler ends with 15
        raise SystemExit(128 + signal.SIGTERM) from error
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        where = f"a cluster at {address}" if address else "Ray on this machine"
        raise RuntimeUnavailable("ray", got=str(error), expected=where) from error
    try:
        _handle_sigterm(handler)
        yield
    finally:
        ray.shutdown()
        _handle_sigterm(handler)


def _handle_sigterm(handler: Any) -> None:
    """Put it back: `ray.init` installs its own, and `ray.shutdown` the system's, which ends a process as it stands.

    Of the latter Python does not know: it still shows the handler that no longer is one.
    """
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
