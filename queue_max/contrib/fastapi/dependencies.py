"""What endpoints ask for: the queue of the app, and `BackgroundQueue`."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from queue_max import checks
from queue_max.domain.job import JobHandle
from queue_max.exceptions import ConfigurationError, InvalidJobError
from queue_max.off_loop import off_loop
from queue_max.queue import Queue


async def get_queue(connection: HTTPConnection) -> Queue:
    """Give the queue of the app that serves a request, or a websocket."""
    found = getattr(connection.state, "queue", None)
    if found is None and "app" in connection.scope:
        found = getattr(connection.app.state, "queue", None)
    if not isinstance(found, Queue):
        raise ConfigurationError(
            "the app has no queue: give it queue_lifespan() or QueueMiddleware, and let its "
            "lifespan run (in tests: `with TestClient(app) as client`; of an app that is mounted "
            "in another, only the outer one's lifespan runs)"
        )
    return found


QueueDep = Annotated[Queue, Depends(get_queue)]
"""For a parameter of an endpoint: `async def endpoint(queue: QueueDep)`."""


class BackgroundQueue:
    """Enqueues jobs by the name of what is to be done, for a worker's `process_function`.

    As a dependency: `jobs: Annotated[BackgroundQueue, Depends()]`.
    """

    def __init__(self, queue: QueueDep) -> None:
        self.queue = queue

    def enqueue(
        self,
        task_name: str,
        payload: Mapping[str, Any],
        pagina_id: int | None = None,
        priority: int = 0,
    ) -> JobHandle:
        """Store a job with the payload `{"task": task_name, **payload}`; as `Queue.enqueue`.

        For endpoints that are plain functions: it waits for the disk.
        """
        checks.instance("task_name", task_name, str, "a str", error=InvalidJobError)
        checks.instance("payload", payload, Mapping, "a dict", error=InvalidJobError)
        return self.queue.enqueue({"task": task_name, **payload}, pagina_id, priority)

    aenqueue = off_loop(enqueue)
