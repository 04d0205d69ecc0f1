"""Routes about jobs: how a job is, and the answer that tells where to ask."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.params import Depends
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import NoMatchFound

from queue_max.contrib.fastapi.dependencies import QueueDep
from queue_max.domain.job import Job, JobHandle, JobStatus
from queue_max.domain.reference import JobRef
from queue_max.exceptions import (
    ConfigurationError,
    InvalidJobError,
    JobNotFoundError,
    ShardNotFoundError,
)
from queue_max.queue import Queue

_ROUTE = "queue_max_job"


class JobState(BaseModel):
    """How a job is; `result` and `payload` are left out where they are not to be had."""

    key: str
    status: JobStatus
    task: str | None
    attempts: int
    max_attempts: int
    progress: float
    created_at: str | None
    due_at: str | None
    started_at: str | None
    completed_at: str | None
    error_type: str | None
    error: str | None
    result: Any = None
    payload: dict[str, Any] = {}


def queue_router(
    *,
    prefix: str = "",
    cancel: bool = False,
    show_payload: bool = False,
    dependencies: Sequence[Depends] | None = None,
) -> APIRouter:
    """Make a router that tells how jobs are: `GET <prefix>/jobs/{key}`.

    Jobs are named by the key that their handle has; who knows one may read the job, with its
    result and its last error. `show_payload` shows the payload, too; `cancel` adds
    `POST <prefix>/jobs/{key}/cancel`. `dependencies`, as of any router, let nobody else in.

    404 where there is no such job. One that is done is gone, unless it keeps its result.
    """
    router = APIRouter(prefix=prefix, dependencies=dependencies, tags=["jobs"])

    @router.get("/jobs/{key}", name=_ROUTE, response_model_exclude_unset=True)
    def get_job(key: str, queue: QueueDep) -> JobState:
        return _state(_find(queue, key), show_payload)

    if cancel:

        @router.post("/jobs/{key}/cancel", response_model_exclude_unset=True)
        def cancel_job(key: str, queue: QueueDep) -> JobState:
            job = _find(queue, key)
            if not queue.cancel(job):
                raise HTTPException(409, "The job has ended already.")
            return _state(_find(queue, key), show_payload)

    return router


def accepted(request: Request, job: JobHandle) -> JSONResponse:
    """Answer that a job was enqueued: 202, its key, and the place of its status as Location.

    The app has to include `queue_router()`.
    """
    try:
        place = request.url_for(_ROUTE, key=job.key).path
    except NoMatchFound as error:
        raise ConfigurationError(
            "nobody could ask for the job: app.include_router(queue_router()) is missing"
        ) from error
    return JSONResponse({"key": job.key, "status_url": place}, 202, {"Location": place})


def _find(queue: Queue, key: str) -> Job:
    """Find a job by its key; the number of a job is none, since anybody could guess it."""
    try:
        if JobRef.of(key).uid is not None:
            return queue.get_job(key)
    except (InvalidJobError, JobNotFoundError, ShardNotFoundError):
        pass
    raise HTTPException(404, "There is no such job; one that is done is gone, unless it is kept.")


def _state(job: Job, show_payload: bool) -> JobState:
    more: dict[str, Any] = {}
    if job.is_completed and job.result is not None:
        more["result"] = json.loads(job.result)
    if show_payload:
        more["payload"] = job.payload
    return JobState(
        key=job.key,
        status=job.status,
        task=job.task,
        attempts=job.attempts,
        max_attempts=job.max_attempts,
        progress=job.progress,
        created_at=job.created_at,
        due_at=job.next_retry_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        error_type=job.error_type,
        error=job.last_error,
        **more,
    )
