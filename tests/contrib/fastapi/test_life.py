"""A queue and workers for as long as an app runs: by the middleware, and by the lifespan."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from queue_max import ConfigurationError, Queue, default_queue, set_default_queue, task
from queue_max.contrib.fastapi import QueueMiddleware, queue_lifespan
from queue_max.tasks.binding import standing_default

Make = Callable[..., FastAPI]


def with_middleware(
    queue: Any = None, *, workers: int = 0, lifespan: Any = None, **options: Any
) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(QueueMiddleware, queue=queue, max_workers=workers, **options)
    return app


def with_lifespan(queue: Any = None, **options: Any) -> FastAPI:
    return FastAPI(lifespan=queue_lifespan(queue, **options))


def with_router(queue: Any = None, *, lifespan: Any = None, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    app.include_router(APIRouter(lifespan=queue_lifespan(queue, **options)))
    return app


@pytest.fixture(params=[with_middleware, with_lifespan, with_router])
def make(request: pytest.FixtureRequest) -> Make:
    """Make an app with a queue, in each of the ways there are."""
    made: Make = request.param
    return made


def watch(queue: Queue, steps: list[str]) -> Queue:
    """Note when a queue is closed."""
    close = queue.close

    def note() -> None:
        steps.append("closed")
        close()

    queue.close = note  # type: ignore[method-assign]
    return queue


def is_open(queue: Queue) -> bool:
    try:
        queue.enqueue({})
    except Exception:
        return False
    return True


def test_the_queue_is_in_the_state_of_requests_and_of_the_app(make: Make, data_dir: Path) -> None:
    app = make()

    @app.get("/")
    def look(request: Request) -> list[bool]:
        return [isinstance(request.state.queue, Queue), request.state.queue is app.state.queue]

    with TestClient(app) as client:
        assert client.get("/").json() == [True, True]
        assert Path(app.state.queue.data_dir) == data_dir
    assert not hasattr(app.state, "queue")


def test_a_queue_that_was_opened_for_the_app_is_closed_with_it(make: Make) -> None:
    for source in (None, Queue):
        app = make(source)
        with TestClient(app):
            queue = app.state.queue
            assert is_open(queue)
        assert not is_open(queue)


def test_a_queue_of_the_program_stays_open(make: Make, other_queue: Queue) -> None:
    app = make(other_queue)
    with TestClient(app):
        assert app.state.queue is other_queue
    assert is_open(other_queue)


def test_an_app_may_be_started_again(make: Make) -> None:
    app = make(workers=1)
    for _ in range(2):
        with TestClient(app):
            assert is_open(app.state.queue)


def test_workers_run_jobs_by_their_function_and_tasks(make: Make) -> None:
    @task(keep_result=60)
    def double(n: int) -> int:
        return 2 * n

    async def greet(payload: dict[str, Any]) -> str:
        return f"Hello, {payload['name']}"

    app = make(workers=2, process_function=greet)
    with TestClient(app):
        queue: Queue = app.state.queue
        hello = queue.enqueue({"name": "Ada"}, keep_result=60)
        assert hello.result(timeout=30) == "Hello, Ada"
        assert double.delay(21).result(timeout=30) == 42


def test_without_workers_jobs_wait_for_another_process(make: Make) -> None:
    threads = threading.active_count()
    app = make()
    with TestClient(app):
        app.state.queue.enqueue({"n": 1})
        names = [thread.name for thread in threading.enumerate()]
        assert app.state.queue.get_pending_count() == 1
        assert not [name for name in names if "web" in name]
    assert threading.active_count() <= threads + 1


def test_the_middleware_runs_two_workers_if_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "queue_max.contrib")
    app = FastAPI()
    app.add_middleware(QueueMiddleware)
    with TestClient(app):
        names = [each.name for each in threading.enumerate() if "-web-" in each.name]
    assert len(names) == 2
    assert "2 worker(s)" in caplog.text


def test_workers_take_jobs_of_the_queues_that_were_named(make: Make) -> None:
    app = make(workers=1, process_function=lambda payload: payload["n"], queues="mail")
    with TestClient(app):
        queue: Queue = app.state.queue
        left = queue.enqueue({"n": 1}, keep_result=60)
        taken = queue.enqueue({"n": 2}, queue="mail", keep_result=60)
        assert taken.result(timeout=30) == 2
        assert queue.get_job(left).is_pending


def test_coroutines_run_many_at_a_time_where_that_is_asked_for(make: Make) -> None:
    meeting: set[int] = set()

    async def meet(payload: dict[str, Any]) -> None:
        meeting.add(payload["n"])
        while len(meeting) < 3:
            await asyncio.sleep(0.001)

    app = make(workers=1, process_function=meet, concurrency=3)
    with TestClient(app):
        queue: Queue = app.state.queue
        for handle in [queue.enqueue({"n": n}, keep_result=60) for n in range(3)]:
            handle.result(timeout=30)


def test_the_end_of_the_app_waits_for_the_job_that_runs(make: Make) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(_payload: dict[str, Any]) -> None:
        begun.set()
        assert may_end.wait(30)
        ended.set()

    queue = Queue()
    app = make(queue, workers=1, process_function=work)
    with TestClient(app):
        queue.enqueue({})
        assert begun.wait(30)
        threading.Timer(0.05, may_end.set).start()
    assert ended.is_set()
    assert queue.get_stats()["completed"] == 1
    queue.close()


def test_a_job_that_takes_too_long_to_end_goes_back_to_the_queue(make: Make) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work(_payload: dict[str, Any]) -> None:
        begun.set()
        may_end.wait(30)

    queue = Queue()
    app = make(queue, workers=1, process_function=work, stop_timeout=0)
    with TestClient(app):
        handle = queue.enqueue({})
        assert begun.wait(30)
    assert queue.get_job(handle).is_pending
    may_end.set()
    queue.close()


def lifespan_of_mine(steps: list[str], fails_at: str = "") -> Any:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
        note(app, "began")
        yield {"mine": "kept"}
        note(app, "ended")

    def note(app: Any, step: str) -> None:
        steps.append(step)
        queue = getattr(getattr(app, "state", None), "queue", None)
        if queue is not None:
            steps.append("open" if is_open(queue) else "closed")
        if step == fails_at:
            raise RuntimeError(f"mine fails when it {step}")

    return lifespan


def test_a_lifespan_of_the_apps_own_runs_too_and_its_state_is_kept(make: Make) -> None:
    steps: list[str] = []
    app = make(lifespan=lifespan_of_mine(steps))

    @app.get("/")
    def look(request: Request) -> list[str]:
        return [request.state.mine, type(request.state.queue).__name__]

    with TestClient(app) as client:
        assert client.get("/").json() == ["kept", "Queue"]
    assert [step for step in steps if step in {"began", "ended"}] == ["began", "ended"]


@pytest.mark.parametrize("make_one", [with_middleware, with_lifespan])
def test_a_lifespan_of_the_apps_own_finds_the_queue_open_and_workers_within_it(
    make_one: Make,
) -> None:
    steps: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def work(_payload: dict[str, Any]) -> None:
        steps.append("job begins")
        begun.set()
        assert may_end.wait(30)
        steps.append("job ends")

    queue = Queue()
    queue.enqueue({})

    @asynccontextmanager
    async def mine(app: Any) -> AsyncIterator[None]:
        assert app.state.queue is queue
        await asyncio.sleep(0.05)  # time for a worker that should not have begun
        steps.append("mine begins")
        yield
        steps.append("mine ends")
        assert app.state.queue is queue

    app = make_one(queue, workers=1, process_function=work, lifespan=mine)
    with TestClient(app):
        assert begun.wait(30)
        threading.Timer(0.05, may_end.set).start()
    assert steps == ["mine begins", "job begins", "job ends", "mine ends"]
    queue.close()


@pytest.mark.parametrize("fails_at", ["began", "ended"])
def test_all_is_closed_when_the_apps_own_lifespan_fails(make: Make, fails_at: str) -> None:
    opened: list[Queue] = []

    def open_queue() -> Queue:
        opened.append(Queue())
        return opened[-1]

    app = make(open_queue, workers=1, lifespan=lifespan_of_mine([], fails_at))
    with pytest.raises(RuntimeError, match="mine fails"), TestClient(app):
        assert fails_at == "ended"
    assert opened or make is with_router  # that one is begun after the app's own
    assert not any(map(is_open, opened))
    assert not [each.name for each in threading.enumerate() if "-web-" in each.name]
    assert standing_default() is None


def test_the_start_fails_in_words_when_the_queue_cannot_be_opened(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUM_SHARDS", "many")
    with pytest.raises(ConfigurationError, match="NUM_SHARDS='many'"), TestClient(make()):
        pass


def test_the_server_is_told_why_the_queue_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_SHARDS", "many")
    sent: list[Any] = []

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        await with_middleware()({"type": "lifespan", "state": {}}, receive, send)

    with pytest.raises(ConfigurationError):
        asyncio.run(run())
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert message["message"].startswith("the queue cannot be opened: NUM_SHARDS='many'")


def test_the_server_hears_of_the_end_when_the_queue_is_closed(make: Make) -> None:
    steps: list[str] = []

    async def run() -> None:
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            steps.append(message["type"])

        app = make(lambda: watch(Queue(), steps))
        await app({"type": "lifespan", "state": {}}, receive, send)

    asyncio.run(run())
    assert steps == ["lifespan.startup.complete", "closed", "lifespan.shutdown.complete"]


def test_the_middleware_needs_no_state_from_the_server(queue: Queue) -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["state"]["queue"])
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await app({"type": "http"}, receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def run() -> None:
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(_message: Any) -> None: ...

        await app({"type": "lifespan"}, receive, send)

    app = QueueMiddleware(inner, queue, 0)
    asyncio.run(run())
    assert seen == [queue]


def test_the_event_loop_goes_on_while_files_are_opened_and_workers_stop(make: Make) -> None:
    steps: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def needs_the_loop() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)

        def open_queue() -> Queue:
            needs_the_loop()
            steps.append("opened")
            return Queue()

        def work(_payload: dict[str, Any]) -> None:
            begun.set()
            may_end.wait(30)
            needs_the_loop()
            steps.append("worked")

        begun, may_end = threading.Event(), threading.Event()
        app = make(open_queue, workers=1, process_function=work)
        is_first = True

        async def receive() -> Any:
            nonlocal is_first
            if is_first:
                is_first = False
                return {"type": "lifespan.startup"}
            await asyncio.to_thread(app.state.queue.enqueue, {})
            await asyncio.to_thread(begun.wait, 30)
            may_end.set()
            return {"type": "lifespan.shutdown"}

        async def send(message: Any) -> None:
            steps.append(message["type"].rpartition(".")[0])

        await app({"type": "lifespan", "state": {}}, receive, send)

    asyncio.run(run())
    assert steps == ["opened", "lifespan.startup", "worked", "lifespan.shutdown"]


def test_tasks_use_the_queue_of_the_app_while_it_runs(make: Make) -> None:
    app = make()
    with TestClient(app):
        assert default_queue() is app.state.queue
    assert standing_default() is None


def test_a_default_queue_of_the_program_is_the_apps_and_stays(
    make: Make, other_queue: Queue
) -> None:
    set_default_queue(lambda: other_queue)
    app = make()
    with TestClient(app):
        assert app.state.queue is other_queue
    assert is_open(other_queue)
    assert standing_default() is other_queue


def test_an_app_with_a_queue_of_its_own_leaves_the_default_one_alone(
    make: Make, other_queue: Queue
) -> None:
    set_default_queue(other_queue)
    app = make(Queue)
    with TestClient(app):
        assert app.state.queue is not other_queue
        assert default_queue() is other_queue


def test_two_apps_have_queues_of_their_own(make: Make, tmp_path: Path) -> None:
    apps = [make(lambda name=name: Queue(data_dir=tmp_path / name)) for name in ("a", "b")]
    with TestClient(apps[0]), TestClient(apps[1]):
        apps[0].state.queue.enqueue({"n": 1})
        assert [app.state.queue.get_pending_count() for app in apps] == [1, 0]


def test_an_app_of_starlette_alone_will_do() -> None:
    async def enqueue(request: Request) -> JSONResponse:
        handle = await request.state.queue.aenqueue({"n": 1}, keep_result=60)
        return JSONResponse(await handle.aresult(30))

    route = Route("/", enqueue, methods=["POST"])
    work = {"process_function": lambda payload: payload["n"] + 1}
    apps = [
        Starlette(routes=[route], lifespan=queue_lifespan(workers=1, **work)),
        Starlette(routes=[route], middleware=[Middleware(QueueMiddleware, **work)]),
    ]
    for app in apps:
        with TestClient(app) as client:
            assert client.post("/").json() == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 5}, "queue=5: should be a Queue"),
        ({"workers": -1}, "workers=-1"),
        ({"workers": True}, "workers=True"),
        ({"process_function": 5}, "process_function=5"),
        ({"process_function": lambda: None}, "process_function"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"stop_timeout": -1}, "stop_timeout=-1"),
        ({"queues": "mail=0"}, "mail"),
    ],
)
def test_bad_options_are_refused_where_they_are_written(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        queue_lifespan(**options)


def test_a_function_that_gives_no_queue_stops_the_start(make: Make) -> None:
    with (
        pytest.raises(ConfigurationError, match="a function that gives a Queue"),
        TestClient(make(lambda: 5)),
    ):
        pass


def test_the_middleware_works_beneath_another_one() -> None:
    app = with_middleware(workers=1, process_function=lambda payload: payload["n"])
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    with TestClient(app):
        assert app.state.queue.enqueue({"n": 7}, keep_result=60).result(30) == 7
