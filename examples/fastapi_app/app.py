"""A FastAPI app that answers at once, and leaves the work to workers in processes of their own.

In this folder:

    uvicorn app:app
    queue-max worker --app tasks --workers 4

    curl -i localhost:8000/reports --json '{"pages": ["to be or not", "to be"]}'
    curl localhost:8000/jobs/<key>

The answer to the first is 202, with the place of the second as its Location. Both processes find
the queue in ./data, or where DATA_DIR says. Kill the worker in the midst of a report: the next one
makes it.
"""

from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from tasks import count_words

from queue_max.contrib.fastapi import QueueDep, accepted, queue_lifespan, queue_router


class Text(BaseModel):
    """What is to be counted."""

    pages: Annotated[list[str], Field(min_length=1, max_length=1000)]
    seconds_a_page: Annotated[float, Field(ge=0, le=10)] = 0.0


app = FastAPI(lifespan=queue_lifespan())  # workers=2 would run them in this process, too
app.include_router(queue_router(cancel=True))


@app.post("/reports", status_code=202)
async def make_report(text: Text, request: Request) -> Response:
    """Have the words of a text counted; the answer tells where to ask for the result."""
    job = await count_words.adelay(text.pages, text.seconds_a_page)
    return accepted(request, job)


@app.get("/health")
def tell_health(queue: QueueDep) -> dict[str, Any]:
    """Tell whether all shards can serve, and how many jobs wait."""
    return {"is_healthy": queue.is_healthy, "waiting": queue.get_pending_count()}
