"""Replicas under Ray Serve, which starts them, watches them, and spreads requests over them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

from numpy.typing import NDArray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.serving.engine import Computed
from vqrae.serving.limits import Refusal
from vqrae.serving.worker import Replica, ReplicaOptions

APPLICATION, DEPLOYMENT = "vqrae", "tokenizer"
STATUS_SECONDS = 0.5
"""How long an answer about readiness stays true."""
DEATH_SECONDS = 5.0
"""Requests that fail so soon after one another are taken to have met the same death."""
DIED = (ActorDiedError, ActorUnavailableError, WorkerCrashedError)

logger = logging.getLogger(__name__)


class Replicas:
    """An `Engine`: what is sent to a replica that dies is sent once more, to another one."""

    def __init__(self, handle: DeploymentHandle[Replica]) -> None:
        self._handle = handle
        self._checked, self._ready = -math.inf, False
        self._warned = -math.inf

    @classmethod
    def start(cls, options: ReplicaOptions, *, count: int, cpus: float, gpus: float) -> Replicas:
        """Start replicas on the Ray that this process is connected to, and wait until they have loaded.

        Args:
            options: for each of them.
            count: how many.
            cpus: what each needs, for Ray to find it a place.
            gpus: the same; a replica sees those that it was given.

        Raises:
            RuntimeUnavailable: one of them does not start.
        """
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        inside = options.limits.max_queue
        deployment = serve.deployment(
            name=DEPLOYMENT,
            num_replicas=count,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            max_ongoing_requests=inside,
            max_queued_requests=inside,
            health_check_period_s=5.0,
            graceful_shutdown_timeout_s=options.limits.answer_seconds,
            max_constructor_retry_count=2,
        )(Replica)
        try:
            serve.start(proxy_location=ProxyLocation.Disabled)
            return cls(serve.run(deployment.bind(options), name=APPLICATION, route_prefix=None))
        except (RuntimeError, RayError) as error:
            raise RuntimeUnavailable("replicas", got=_reason(error), expected=f"{count} that start") from error

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        """See `Engine`."""
        return await self._call("infer", graph, batch, outputs)

    async def encode_file(self, content: bytes) -> Computed:
        """See `Engine`."""
        return await self._call("encode_file", content)

    async def ready(self) -> bool:
        """Whether a replica runs."""
        if time.monotonic() - self._checked > STATUS_SECONDS:
            self._ready = await asyncio.to_thread(_is_running)
            self._checked = time.monotonic()
        return self._ready

    async def _call(self, method: str, *arguments: Any) -> Computed:
        for again in (True, False):
            try:
                return await getattr(self._handle, method).remote(*arguments)
            except BackPressureError as error:
                raise Refusal(503, "the replicas are full; try again") from error
            except RayTaskError as error:
                if isinstance(error.cause, Refusal):
                    raise Refusal(error.cause.status, error.cause.message) from error
                raise
            except DIED as error:
                self._warn_of_death()
                if not again:
                    raise Refusal(503, "the replicas that computed this died; try again") from error
        raise AssertionError("the second try returns or raises")

    def _warn_of_death(self) -> None:
        """Once for all the requests that were inside."""
        if time.monotonic() - self._warned > DEATH_SECONDS:
            logger.warning("a replica died; what it was computing is sent once more")
            self._warned = time.monotonic()


def stop_replicas() -> None:
    """Take the application off a Ray that goes on; one of our own ends with us."""
    serve.delete(APPLICATION)


def _is_running() -> bool:
    try:
        application = serve.status().applications.get(APPLICATION)
    except (RayError, RayServeException) as error:
        logger.warning("Ray Serve does not say how the replicas are: %s", error)
        return False
    if application is None:
        return False
    states = [deployment.replica_states for deployment in application.deployments.values()]
    return any(count and state == "RUNNING" for counts in states for state, count in counts.items())


def _reason(error: Exception) -> str:
    """What made a replica fail: Serve's message has its traceback, whose last line that says something is the cause."""
    try:
        message = serve.status().applications[APPLICATION].deployments[DEPLOYMENT].message
    except (KeyError, RayError, RayServeException):
        message = str(error)
    lines = [line.strip() for line in message.splitlines() if "Error" in line or "Unavailable" in line]
    return lines[-1] if lines else message
