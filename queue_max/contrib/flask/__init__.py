"""Queue Max in Flask: a queue for each app, tasks in the app's context, `flask queue-max`."""

try:
    import flask as _flask  # noqa: F401 - to tell what is missing
except ModuleNotFoundError as error:
    raise ImportError(
        f"queue_max.contrib.flask needs {error.name}: pip install 'queue-max[flask]'"
    ) from error

from queue_max.contrib.flask.app_queue import AppQueue
from queue_max.contrib.flask.extension import QueueExtension
from queue_max.contrib.flask.task import AppTask, PeriodicAppTask

__all__ = ["AppQueue", "AppTask", "PeriodicAppTask", "QueueExtension"]
