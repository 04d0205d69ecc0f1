import os
from pathlib import Path

from django.db import connection

from queue_max import task as plain_task
from queue_max.contrib.django import task as queue_task
from queue_max.contrib.django.shim import TaskContext, task_backends

made = []


def task(function=None, **options):
    """As Django has it; the backport's has another home."""
    try:
        from django.tasks import task as decorator
    except ImportError:
        from django_tasks import task as decorator
    return decorator(**options) if function is None else decorator(function)


@queue_task
def note(text):
    Path("noted").write_text(f"{text} by {os.getpid()}")
    return text


@queue_task(queue="mail", priority=2, max_retries=0)
def send(to):
    made.append(to)


@plain_task
def plain(text):
    return text


@queue_task(keep_result=60)
def query():
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        return cursor.fetchone()[0]


@task
def add(a, b=0):
    return a + b


@task()
async def add_later(a, b=0):
    return a + b


@task
def nothing(*args, **kwargs):
    return None


@task
def fail(message="no"):
    raise ValueError(message)


@task
def leave():
    raise SystemExit("out")


@task
def chain():
    raise ValueError(ValueError("inner"))


@task
def unspeakable():
    made.append("ran")
    return lambda: True


@task(queue_name="mail", priority=7)
def mail(to):
    return to


@task(takes_context=True)
def who(context, expected):
    assert isinstance(context, TaskContext)
    assert context.attempt == expected
    return context.task_result.id


@task(takes_context=True)
def flaky(context, until):
    if context.attempt < until:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task
def enqueue_another():
    return task_backends["default"].enqueue(add, (1,), {}).id
