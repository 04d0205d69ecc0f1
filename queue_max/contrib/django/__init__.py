"""Queue Max in a Django project: tasks, management commands, a backend for Django Tasks, an admin.

Importing it reads no settings and touches no disk.
"""

from typing import TYPE_CHECKING, Any

from queue_max.contrib.django.conf import get_queue
from queue_max.contrib.django.decorator import DjangoTask, task

if TYPE_CHECKING:
    from queue_max.contrib.django.backend import QueueMaxBackend

__all__ = ["DjangoTask", "QueueMaxBackend", "get_queue", "task"]


def __getattr__(name: str) -> Any:
    """Load the backend where it is asked for: it needs Django 6.0, or `django-tasks`."""
    if name == "QueueMaxBackend":
        from queue_max.contrib.django.backend import QueueMaxBackend

        return QueueMaxBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
