"""Answers with status 503 where the queue cannot take a job."""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from queue_max.contrib.web import unavailable
from queue_max.exceptions import QueueError, ShardError


def install_error_handlers(app: Starlette) -> None:
    """Have requests that end with a ShardError, as QueueFullError is one, answered with 503.

    A handler that the app has for one of them, or for QueueError, stays. The app may have started.
    """
    if any(kind in app.exception_handlers for kind in (ShardError, QueueError)):
        return
    app.exception_handlers[ShardError] = _answer
    if (layer := _layer_of_handlers(app)) is not None:
        layer.add_exception_handler(ShardError, _answer)


def response_to(error: ShardError) -> Response | None:
    """Give the answer to a request that ended so; None for what is no fault of the queue."""
    answer = unavailable(error)
    if answer is None:
        return None
    headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
    return JSONResponse({"detail": answer.detail}, 503, headers)


async def _answer(_request: Request, error: Exception) -> Response:
    response = response_to(error) if isinstance(error, ShardError) else None
    if response is None:
        raise error
    return response


def _layer_of_handlers(app: Starlette) -> ExceptionMiddleware | None:
    """Find what calls the handlers of an app that has started: it has a copy of them."""
    layer: Any = app.middleware_stack
    while layer is not None and not isinstance(layer, ExceptionMiddleware):
        layer = getattr(layer, "app", None)
    return layer
