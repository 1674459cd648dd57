"""Ray, started or joined: on this machine alone, or a cluster by its address. Nothing is reported to Ray's makers."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported, and by the processes that it starts
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let every other program of the machine go first
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is an error of ours, not lines of C++

import ray

from vqrae.runtimes.errors import RuntimeUnavailable

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a Ray that runs here alone: requests and results pass through it, images do not stay."""

_LOOPBACK = "127.0.0.1"
_LONGEST_FOLDER = 40
"""Of the folder for Ray's sockets, whose whole names may have 107 characters."""
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
    alone = {} if address else _alone(cpus)
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger(_TOKENS).setLevel(logging.ERROR)
    try:
        with _without_its_lines():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **alone)
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


def _alone(cpus: int) -> dict[str, Any]:
    """How a Ray is started that nobody else is to join: on the loopback network, with a token that no file holds.

    Ray itself would look for the way to the internet, write its token below the home, and use /tmp alone.

    Raises:
        RuntimeUnavailable: there is no loopback network, or no folder that can be written to.
    """
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        with socket.create_server((_LOOPBACK, 0)) as heard, socket.create_connection(heard.getsockname(), 2):
            pass
    except OSError as error:
        got, remedy = f"{_LOOPBACK}: {error.strerror or error}", "bring it up: `ip link set lo up`"
        raise RuntimeUnavailable("ray", got=got, expected="the loopback network", remedy=remedy) from error
    return {
        "num_cpus": cpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": _LOOPBACK,
        "_temp_dir": str(_scratch() / "ray"),
    }


@contextmanager
def _without_its_lines() -> Iterator[None]:
    """Ray's C++ writes to the terminal, past Python, whatever it is told, until it has started."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _scratch() -> Path:
    """The first folder that can be written to, of those that Ray's sockets have names short enough in."""
    asked = os.environ.get("RAY_TMPDIR")
    for folder in (asked,) if asked else ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        if len(folder) <= _LONGEST_FOLDER and os.access(folder, os.W_OK):
            return Path(folder)
    remedy = f"set RAY_TMPDIR to one, of at most {_LONGEST_FOLDER} characters"
    got = asked or "none of /tmp, /var/tmp, /dev/shm"
    raise RuntimeUnavailable("ray", got=got, expected="a folder that can be written to", remedy=remedy)


def _handle_sigterm(handler: Any) -> None:
    """Put it back: `ray.init` installs its own, and `ray.shutdown` the system's, which ends a process as it stands.

    Of the latter Python does not know: it still shows the handler that no longer is one.
    """
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
