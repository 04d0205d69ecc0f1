"""Defines tasks when it is imported, as a module of a user does."""

from queue_max import Task, current_job, task


@task(name="isolated.double")
def double(n: int) -> tuple[int, str]:
    return n * 2, current_job().key


@task(name="isolated.more")
def enqueue_more(n: int) -> int:
    double.delay(n)
    return current_job().queue.get_pending_count()


def define_another() -> Task[..., None]:
    """Define a task that is not there in a process that only imports this module."""

    @task(name="isolated.missing", max_retries=0)
    def missing() -> None: ...

    return missing
