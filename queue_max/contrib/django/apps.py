"""The app that `INSTALLED_APPS` names: "queue_max.contrib.django"."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.signals import setting_changed

from queue_max import set_default_queue
from queue_max.contrib.django.checks import check_settings
from queue_max.contrib.django.conf import close_queue, get_queue


class QueueMaxConfig(AppConfig):
    """Binds the tasks of the process to the project's queue, and checks its settings."""

    name = "queue_max.contrib.django"
    label = "queue_max"
    verbose_name = "Queue Max"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let tasks without a queue of their own use that of the project."""
        set_default_queue(get_queue)
        register(check_settings)
        setting_changed.connect(_setting_changed, dispatch_uid="queue_max")


def _setting_changed(*, setting: str, **_: Any) -> None:
    """Forget the queue when a test changes its settings."""
    if setting == "QUEUE_MAX":
        close_queue()
