"""Apps on queues without limits."""

from support.web_apps import other_queue, web_settings

__all__ = ["other_queue", "web_settings"]
