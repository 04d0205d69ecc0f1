"""`manage.py queue_worker`."""

import importlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.utils.module_loading import module_has_submodule

from queue_max.cli.base import USAGE, Host
from queue_max.cli.workers import worker
from queue_max.contrib.django.conf import get_queue, load_settings
from queue_max.contrib.django.connections import tidy_round_jobs
from queue_max.contrib.django.management.hosted import HostedCommand
from queue_max.queue import Queue
from queue_max.workers.isolation import Isolation
from queue_max.workers.repertoire import tasks

CHILD = "queue_max.contrib.django.child"
"""What the processes import that run single jobs: it sets Django up."""


class Command(HostedCommand):
    """Runs the jobs of the project."""

    help = (
        "Run the jobs of the project's queue until SIGTERM or SIGINT. Without --function and "
        "--app, these are those of the `tasks` modules of all installed apps."
    )
    command = worker

    def handle(self, *args: Any, **options: Any) -> None:
        """Run jobs; the modules to import are found here, so that other processes are told."""
        if not options.get("function") and not options.get("apps"):
            options["apps"] = tasks_modules()
            if not options["apps"]:
                raise CommandError(
                    "nothing to run: no installed app has a `tasks` module; give --app MODULE or "
                    "--function MODULE:FUNCTION",
                    returncode=USAGE,
                )
        if options.get("isolation") == Isolation.PROCESS:
            multiprocessing.set_forkserver_preload([CHILD])
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        super().handle(*args, **options)

    def host(self, options: Mapping[str, Any]) -> Host:
        """Tell our command of the project, and how another process runs the same."""

        def open_queue(_create: bool) -> Queue:
            learn_tasks(options.get("apps") or ())
            tidy_round_jobs(threads_last=options.get("concurrency") is None)
            return get_queue()

        return Host(open_queue, load_settings, [*_program(), *_words(options)])


def tasks_modules() -> list[str]:
    """Name the `tasks` modules of all installed apps."""
    found = apps.get_app_configs()
    return [f"{app.name}.tasks" for app in found if module_has_submodule(app.module, "tasks")]


def learn_tasks(modules: Sequence[str]) -> None:
    """Let workers know the Django Tasks of modules, whatever backend they were made for.

    If they are not told otherwise, they take jobs of all QUEUES of our backends.
    """
    try:
        from queue_max.contrib.django.backend import QueueMaxBackend
        from queue_max.contrib.django.running import learn_all
        from queue_max.contrib.django.shim import task_backends
    except ModuleNotFoundError:  # neither Django 6.0 nor the backport
        return
    learn_all(map(importlib.import_module, modules), QueueMaxBackend)
    for backend in task_backends.all():
        if isinstance(backend, QueueMaxBackend):
            tasks.add_queues(backend.queues)


def _program() -> list[str]:
    """Give the words that start this program afresh, up to the name of the command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["-m", spec.parent] if spec is not None else [os.path.abspath(sys.argv[0])]
    return [sys.executable, *start, "queue_worker"]


def _words(options: Mapping[str, Any]) -> list[str]:
    """Give Django's own options in words; the settings are in the environment."""
    path = options.get("pythonpath")
    return [] if path is None else [f"--pythonpath={path}"]
