"""Queue Max in FastAPI and Starlette: a queue for the life of an app, and what endpoints need."""

try:
    import fastapi as _fastapi  # noqa: F401 - to tell what is missing
except ModuleNotFoundError as error:
    raise ImportError(
        f"queue_max.contrib.fastapi needs {error.name}: pip install 'queue-max[fastapi]'"
    ) from error

from queue_max.contrib.fastapi.dependencies import BackgroundQueue, QueueDep, get_queue
from queue_max.contrib.fastapi.errors import install_error_handlers
from queue_max.contrib.fastapi.lifespan import queue_lifespan
from queue_max.contrib.fastapi.middleware import QueueMiddleware
from queue_max.contrib.fastapi.routes import JobState, accepted, queue_router

__all__ = [
    "BackgroundQueue",
    "JobState",
    "QueueDep",
    "QueueMiddleware",
    "accepted",
    "get_queue",
    "install_error_handlers",
    "queue_lifespan",
    "queue_router",
]
