"""What endpoints are given, what they answer, and what becomes of errors of the queue."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse

from queue_max import (
    ConfigurationError,
    InvalidJobError,
    PartialBatchError,
    Queue,
    QueueError,
    QueueFullError,
    Retry,
    ShardBusyError,
    ShardError,
    ShardNotFoundError,
    task,
)
from queue_max.contrib.fastapi import (
    BackgroundQueue,
    QueueDep,
    QueueMiddleware,
    accepted,
    get_queue,
    install_error_handlers,
    queue_lifespan,
    queue_router,
)

Serve = Callable[..., TestClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Let an app run until the test ends; gives its client."""
    clients: list[TestClient] = []

    def enter(app: FastAPI, **options: Any) -> TestClient:
        clients.append(TestClient(app, **options))
        return clients[-1].__enter__()

    yield enter
    for client in reversed(clients):
        client.__exit__(None, None, None)


@pytest.fixture
def app(queue: Queue) -> FastAPI:
    return FastAPI(lifespan=queue_lifespan(queue))


def test_endpoints_of_both_kinds_and_websockets_are_given_the_queue(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    @app.get("/coroutine")
    async def coroutine(found: QueueDep) -> bool:
        return found is queue

    @app.get("/function")
    def function(found: QueueDep) -> bool:
        return found is queue

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, found: QueueDep) -> None:
        await websocket.accept()
        await websocket.send_json(found is queue)
        await websocket.close()

    client = serve(app)
    assert client.get("/coroutine").json()
    assert client.get("/function").json()
    with client.websocket_connect("/socket") as connected:
        assert connected.receive_json()


def test_an_app_that_is_mounted_in_another_uses_the_queue_of_that(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    inner = FastAPI()

    @inner.get("/")
    def look(found: QueueDep) -> bool:
        return found is queue

    app.mount("/inner", inner)
    assert serve(app).get("/inner/").json()


def test_an_app_without_a_queue_says_what_is_missing(serve: Serve) -> None:
    app = FastAPI()

    @app.get("/")
    def look(found: QueueDep) -> None: ...

    with pytest.raises(ConfigurationError, match="the app has no queue: give it queue_lifespan"):
        serve(app).get("/")


def test_a_test_may_put_another_queue_in_its_place(serve: Serve, queue: Queue) -> None:
    app = FastAPI()
    app.dependency_overrides[get_queue] = lambda: queue

    @app.post("/")
    def enqueue(found: QueueDep) -> None:
        found.enqueue({"n": 1})

    serve(app).post("/")
    assert queue.get_pending_count() == 1


def test_a_background_queue_stores_jobs_by_the_name_of_what_is_to_be_done(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    @app.post("/sync")
    def sync(jobs: Annotated[BackgroundQueue, Depends()]) -> str:
        return jobs.enqueue("mail", {"to": "Ada"}, 7, 2).key

    @app.post("/async")
    async def later(jobs: Annotated[BackgroundQueue, Depends()]) -> str:
        return (await jobs.aenqueue("mail", {"to": "Ada"}, pagina_id=7, priority=2)).key

    client = serve(app)
    for path in ("/sync", "/async"):
        job = queue.get_job(client.post(path).json())
        assert job.payload == {"task": "mail", "to": "Ada"}
        assert (job.pagina_id, job.priority_int, job.task) == (7, 2, None)


def test_a_background_queue_refuses_what_is_no_job(queue: Queue) -> None:
    jobs = BackgroundQueue(queue)
    with pytest.raises(InvalidJobError, match="task_name=5: should be a str"):
        jobs.enqueue(5, {})  # type: ignore[arg-type]
    with pytest.raises(InvalidJobError, match="payload='x': should be a dict"):
        jobs.enqueue("mail", "x")  # type: ignore[arg-type]
    assert queue.is_empty()


@pytest.fixture
def client(app: FastAPI, serve: Serve) -> TestClient:
    """An app that tells of jobs."""
    app.include_router(queue_router())
    return serve(app)


def test_an_enqueued_job_is_answered_by_202_and_the_place_of_its_state(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    app.include_router(queue_router(prefix="/api"))

    @app.post("/")
    async def enqueue(request: Request, found: QueueDep) -> Any:
        return accepted(request, await found.aenqueue({"n": 1}))

    client = serve(app, root_path="/behind/a/proxy")
    answer = client.post("/")

    assert answer.status_code == 202
    (job,) = queue.list_jobs()
    place = f"/behind/a/proxy/api/jobs/{job.key}"
    assert answer.headers["Location"] == place
    assert answer.json() == {"key": job.key, "status_url": place}
    assert client.get(place).json()["status"] == "pending"


def test_without_a_router_that_answer_says_what_is_missing(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    @app.post("/")
    def enqueue(request: Request) -> Any:
        return accepted(request, queue.enqueue({}))

    with pytest.raises(ConfigurationError, match=r"include_router\(queue_router\(\)\) is missing"):
        serve(app).post("/")


def test_the_state_of_a_job_follows_its_life(client: TestClient, queue: Queue) -> None:
    @task(queue, name="double", keep_result=60, max_retries=1, retry_delay=0)
    def double(n: int) -> dict[str, int]:
        raise Retry(0, "not yet") if n == 0 else ValueError("never")

    key = double.delay(0).key
    state = client.get(f"/jobs/{key}").json()
    assert state == {
        "key": key,
        "status": "pending",
        "task": "double",
        "attempts": 0,
        "max_attempts": 2,
        "progress": 0.0,
        "created_at": state["created_at"],
        "due_at": None,
        "started_at": None,
        "completed_at": None,
        "error_type": None,
        "error": None,
    }
    job = queue.pop_job("me")
    assert job is not None
    queue.update_progress(job.id, job.shard_id, 50)
    state = client.get(f"/jobs/{key}").json()
    assert (state["status"], state["attempts"], state["progress"]) == ("processing", 1, 50)
    queue.fail_job(job.id, job.shard_id, ValueError("never"), permanent=True)
    state = client.get(f"/jobs/{key}").json()
    assert (state["status"], state["error_type"], state["error"]) == (
        *("failed", "ValueError"),
        "never",
    )


@pytest.mark.parametrize("result", [{"pages": 3}, None, 0])
def test_a_result_that_is_kept_is_shown(client: TestClient, queue: Queue, result: Any) -> None:
    key = queue.enqueue({}, keep_result=60).key
    queue.drain(lambda _payload: result)
    state = client.get(f"/jobs/{key}").json()
    assert state["status"] == "completed"
    assert state["result"] == result


@pytest.mark.parametrize("key", ["0-{id}", "0-no-such-job", "77-no-such-shard", "!", "0-77"])
def test_a_job_that_is_not_there_or_is_named_by_a_number_is_not_found(
    client: TestClient, queue: Queue, key: str
) -> None:
    handle = queue.enqueue({})
    answer = client.get(f"/jobs/{key.format(id=handle['id'])}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("There is no such job")


def test_payloads_are_shown_to_those_who_ask_for_them_only(
    client: TestClient, queue: Queue, serve: Serve
) -> None:
    key = queue.enqueue({"secret": "abc"}).key
    assert "abc" not in client.get(f"/jobs/{key}").text
    app = FastAPI(lifespan=queue_lifespan(queue))
    app.include_router(queue_router(show_payload=True))
    assert serve(app).get(f"/jobs/{key}").json()["payload"] == {"secret": "abc"}


def test_jobs_are_cancelled_where_that_was_asked_for(
    client: TestClient, queue: Queue, serve: Serve
) -> None:
    key = queue.enqueue({}).key
    assert client.post(f"/jobs/{key}/cancel").status_code == 404

    app = FastAPI(lifespan=queue_lifespan(queue))
    app.include_router(queue_router(cancel=True))
    client = serve(app)
    assert client.post(f"/jobs/{key}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/jobs/{key}/cancel").status_code == 409
    assert client.post("/jobs/0-nobody/cancel").status_code == 404


def test_the_routes_let_in_whom_their_dependencies_let_in(
    app: FastAPI, queue: Queue, serve: Serve
) -> None:
    def guard(request: Request) -> None:
        if request.headers.get("X-Key") != "abc":
            raise HTTPException(403)

    app.include_router(queue_router(cancel=True, dependencies=[Depends(guard)]))
    client, key = serve(app), queue.enqueue({}).key
    assert client.get(f"/jobs/{key}").status_code == 403
    assert client.post(f"/jobs/{key}/cancel").status_code == 403
    assert client.get(f"/jobs/{key}", headers={"X-Key": "abc"}).status_code == 200


def failing(app: FastAPI, error: Exception) -> FastAPI:
    @app.post("/")
    async def fail() -> None:
        raise error

    return app


def with_lifespan(queue: Queue) -> FastAPI:
    return FastAPI(lifespan=queue_lifespan(queue))


def with_lifespan_beneath_others(queue: Queue) -> FastAPI:
    app = with_lifespan(queue)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    return app


def with_middleware(queue: Queue) -> FastAPI:
    app = FastAPI()
    app.add_middleware(QueueMiddleware, queue=queue, max_workers=0)
    return app


def with_handlers_alone(_queue: Queue) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    return app


EACH_WAY = [with_lifespan, with_lifespan_beneath_others, with_middleware, with_handlers_alone]


@pytest.mark.parametrize("make", EACH_WAY)
@pytest.mark.parametrize(
    ("error", "words", "retry_after"),
    [
        (QueueFullError(None, "no room in /srv/data"), "is full; try again later.", "1"),
        (QueueFullError(0, "not now", 61.5), "is full; try again later.", "62"),
        (ShardBusyError(3, "/srv/data/shard_3.db is locked"), "cannot be reached; try again", "5"),
        (PartialBatchError(ShardError(1, "/srv is gone"), 3), "A part of the jobs", None),
    ],
)
def test_what_the_queue_cannot_take_is_answered_by_503(
    make: Callable[[Queue], FastAPI],
    error: Exception,
    words: str,
    retry_after: str | None,
    queue: Queue,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = serve(failing(make(queue), error)).post("/")

    assert answer.status_code == 503
    assert words in answer.json()["detail"]
    assert "/srv" not in answer.text
    assert str(error) in caplog.text
    assert answer.headers.get("Retry-After") == retry_after


@pytest.mark.parametrize("make", EACH_WAY)
def test_an_error_that_is_no_fault_of_the_queue_stays_one(
    make: Callable[[Queue], FastAPI], queue: Queue, serve: Serve
) -> None:
    for error in (ShardNotFoundError(7, "no such shard"), ValueError("mine")):
        client = serve(failing(make(queue), error))
        with pytest.raises(type(error)):
            client.post("/")


@pytest.mark.parametrize("make", [with_lifespan, with_middleware, lambda _queue: FastAPI()])
@pytest.mark.parametrize("kind", [QueueFullError, ShardError, QueueError])
def test_handlers_of_the_apps_own_stay(
    make: Callable[[Queue], FastAPI], kind: type[Exception], queue: Queue, serve: Serve
) -> None:
    app = make(queue)

    @app.exception_handler(kind)
    async def mine(_request: Request, _error: Exception) -> PlainTextResponse:
        return PlainTextResponse("mine", 507)

    install_error_handlers(app)
    answer = serve(failing(app, QueueFullError(None, "full"))).post("/")
    assert (answer.status_code, answer.text) == (507, "mine")


def test_an_answer_that_has_begun_is_not_followed_by_another(queue: Queue, serve: Serve) -> None:
    async def body() -> Any:
        yield b"a part"
        raise ShardBusyError(0, "locked")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(body())(scope, receive, send)

    client = TestClient(QueueMiddleware(inner, queue=queue))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group of it, perhaps
        client.post("/")
    assert "locked" in repr(caught.value)
