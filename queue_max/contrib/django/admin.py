"""Jobs and dead letters in Django's admin: looked at by those who may view, changed by POST."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from queue_max import ConfigurationError, Job, JobStatus, Queue, checks
from queue_max.contrib.django import models
from queue_max.contrib.django.conf import get_queue
from queue_max.exceptions import InvalidJobError, JobNotFoundError, QueueError, ShardNotFoundError

SHOWN = 100
"""Rows of a list: the newest ones."""

Action = Callable[[Queue, str], bool]
"""Changes a job, named by its key; False where it is in no state for that."""

_UNKNOWN = (InvalidJobError, JobNotFoundError, ShardNotFoundError)


class QueueAdmin(admin.ModelAdmin):
    """A list and a page for each row, read from the queue and not from a table."""

    title: str
    headers: Sequence[str]
    filters: Sequence[str]
    actions_of_rows: Mapping[str, Action]

    def rows(self, queue: Queue, chosen: Mapping[str, str]) -> list[tuple[str, Sequence[Any]]]:
        """Read the rows that were chosen, each with the key of its job."""
        raise NotImplementedError

    def facts(self, queue: Queue, key: str) -> dict[str, Any]:
        """Read all of one row; what its template shows."""
        raise NotImplementedError

    def choices(self, queue: Queue) -> dict[str, Sequence[Any]]:
        """Tell what can be chosen of each filter; whatever is typed, where nothing is told."""
        return {"shard": queue.services.store.shard_ids}

    @cached_property
    def _name(self) -> str:
        return f"queue_max_{self.opts.model_name}"

    def get_urls(self) -> list[Any]:
        """Give the list and the pages; there is nothing to add, and no history."""
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.changelist_view), name=f"{self._name}_changelist"),
            path("<str:object_id>/change/", wrap(self.change_view), name=f"{self._name}_change"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell that no job is made here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell that no job is deleted as a row of a table is."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the newest rows, or do what was asked for with the marked ones."""
        self._require_view(request)
        if request.method == "POST":
            self._act(request, request.POST.getlist("key"))
            return redirect(request.get_full_path())
        if key := request.GET.get("key", "").strip():
            return redirect(self._page(key))
        context = self._context(request, self.title) | {"headers": self.headers, "shown": SHOWN}
        chosen = {name: request.GET[name] for name in self.filters if request.GET.get(name)}
        try:
            queue = get_queue(create=False)
            rows = self.rows(queue, chosen)
            context["rows"] = [(self._page(key), key, cells) for key, cells in rows]
            choices = self.choices(queue)
            context["filters"] = [
                (name, chosen.get(name, ""), [str(each) for each in choices.get(name, ())])
                for name in self.filters
            ]
        except (QueueError, ValueError) as error:
            messages.error(request, str(error))
        return TemplateResponse(request, "queue_max/admin/list.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show all that is known of one row, or do what was asked for."""
        self._require_view(request)
        if request.method == "POST":
            self._act(request, [object_id])
            return redirect(reverse(f"admin:{self._name}_changelist", current_app=self._site))
        context = self._context(request, object_id)
        try:
            context |= self.facts(get_queue(create=False), object_id)
        except _UNKNOWN as error:
            raise Http404(str(error)) from error
        except QueueError as error:
            messages.error(request, str(error))
        return TemplateResponse(request, "queue_max/admin/page.html", context)

    @property
    def _site(self) -> str:
        return self.admin_site.name

    def _page(self, key: str) -> str:
        return reverse(f"admin:{self._name}_change", args=[key], current_app=self._site)

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        may_change = self.has_change_permission(request)
        return {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "actions": list(self.actions_of_rows) if may_change else [],
            "list_url": reverse(f"admin:{self._name}_changelist", current_app=self._site),
        }

    def _act(self, request: HttpRequest, keys: Sequence[str]) -> None:
        """Do what was asked for with some jobs, and tell how that went."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        name = request.POST.get("action", "")
        action = self.actions_of_rows.get(name)
        if action is None:
            messages.error(request, "Choose what is to be done.")
            return
        done = 0
        for key in keys:
            try:
                if action(get_queue(create=False), key):
                    done += 1
                else:
                    messages.warning(request, f"{key}: is in no state for this.")
            except QueueError as error:
                messages.error(request, f"{key}: {error}")
        messages.info(request, f"{name}: {done} of {len(keys)} done.")


@admin.register(models.Job)
class JobAdmin(QueueAdmin):
    """All jobs, in whatever state."""

    title = "Jobs"
    headers = ("Key", "Status", "Queue", "Task", "Priority", "Attempts", "Created at", "Error")
    filters = ("status", "queue", "shard")

    @property
    def actions_of_rows(self) -> Mapping[str, Action]:  # type: ignore[override]
        """Give what can be done with a job."""
        return {"retry": _retry, "cancel": _cancel, "discard": _discard}

    def choices(self, queue: Queue) -> dict[str, Sequence[Any]]:
        """Give the states, the queues that have jobs, and the shards."""
        queues = sorted(queue.services.dispatch.queues())
        return super().choices(queue) | {"status": list(JobStatus), "queue": queues}

    def rows(self, queue: Queue, chosen: Mapping[str, str]) -> list[tuple[str, Sequence[Any]]]:
        """Read the newest jobs."""
        statuses = [JobStatus(chosen["status"])] if "status" in chosen else list(JobStatus)
        found = queue.services.inspection.jobs(
            statuses, SHOWN, _number(chosen.get("shard")), chosen.get("queue")
        )
        return [(job.key, _cells(job)) for job in found]

    def facts(self, queue: Queue, key: str) -> dict[str, Any]:
        """Read a job and the failed attempts at it."""
        job = queue.get_job(key)
        facts = {
            "Key": job.key,
            "Status": job.status_str,
            "Queue": job.queue,
            "Task": job.task,
            "Priority": job.priority_int,
            "Attempts": f"{job.attempts} of {job.max_attempts}",
            "Worker": job.worker_id,
            "Created at": job.created_at,
            "Due at": job.next_retry_at,
            "Started at": job.started_at,
            "Ended at": job.completed_at,
            "Progress": f"{job.progress:g} %",
            "Held by": job.held_by,
            "Error": job.last_error,
        }
        return {
            "facts": {name: value for name, value in facts.items() if value is not None},
            "payload": json.dumps(job.payload, indent=2, ensure_ascii=False),
            "result": job.result,
            "attempts": queue.get_attempts(job),
        }


@admin.register(models.DeadLetter)
class DeadLetterAdmin(QueueAdmin):
    """What is kept of jobs that failed for good."""

    title = "Dead letters"
    headers = ("Key", "Task", "Error type", "Error", "Reason", "Failed at")
    filters = ("shard", "error_type")

    @property
    def actions_of_rows(self) -> Mapping[str, Action]:  # type: ignore[override]
        """Give what can be done with a dead letter."""
        return {"requeue": _requeue, "discard": _discard}

    def rows(self, queue: Queue, chosen: Mapping[str, str]) -> list[tuple[str, Sequence[Any]]]:
        """Read the newest dead letters."""
        found = queue.dead_letters.list(
            SHOWN, shard_id=_number(chosen.get("shard")), error_type=chosen.get("error_type")
        )
        return [
            (each.key, (each.task, each.error_type, each.error, each.reason, each.failed_at))
            for each in found
        ]

    def facts(self, queue: Queue, key: str) -> dict[str, Any]:
        """Read a dead letter and the failed attempts at its job."""
        letter = queue.dead_letters.get(key)
        facts = {
            "Key": letter.key,
            "Task": letter.task,
            "Reason": letter.reason,
            "Failed at": letter.failed_at,
            "Error type": letter.error_type,
            "Error": letter.error,
        }
        return {
            "facts": {name: value for name, value in facts.items() if value is not None},
            "payload": letter.payload,
            "attempts": letter.attempts,
        }


def _retry(queue: Queue, key: str) -> bool:
    job = queue.get_job(key)
    return queue.services.dead_letters.revive(job.shard_id, job.id)


def _cancel(queue: Queue, key: str) -> bool:
    return queue.cancel(key)


def _requeue(queue: Queue, key: str) -> bool:
    queue.dead_letters.requeue(key)
    return True


def _discard(queue: Queue, key: str) -> bool:
    queue.dead_letters.discard(key)
    return True


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        raise ConfigurationError(f"shard={checks.shown(text)}: should be a whole number") from None


def _cells(job: Job) -> Sequence[Any]:
    attempts = f"{job.attempts} of {job.max_attempts}"
    beginning = job.status_str, job.queue, job.task or "", job.priority_int, attempts
    return *beginning, job.created_at, job.last_error or ""
