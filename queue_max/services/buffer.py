"""Jobs that were claimed ahead, and that no worker of the process has begun."""

from collections import deque
from contextlib import suppress

from queue_max.domain.job import Job, JobPriority


class Buffer:
    """The highest priority goes first, then who came first; needs no lock.

    Its deques are such that several threads may take from them, and put into them, at once.
    """

    def __init__(self) -> None:
        self._jobs: dict[JobPriority, deque[tuple[Job, float]]] = {
            priority: deque() for priority in sorted(JobPriority, reverse=True)
        }

    def __bool__(self) -> bool:
        return any(self._jobs.values())

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def put(self, job: Job, now: float) -> None:
        """Take in a job that was claimed."""
        self._jobs[job.priority].append((job, now))

    def put_back(self, job: Job, since: float) -> None:
        """Take in a job that may not start yet: it goes first again, and is as old as it was."""
        self._jobs[job.priority].appendleft((job, since))

    def pop(self) -> tuple[Job, float] | tuple[None, float]:
        """Give the most urgent job, and since when it is here; None where there is none."""
        for jobs in self._jobs.values():
            if jobs:
                with suppress(IndexError):  # another thread was faster
                    return jobs.popleft()
        return None, 0.0

    def first_queues(self) -> list[str]:
        """Name the queues of the first job of each priority."""
        names = []
        for jobs in self._jobs.values():
            with suppress(IndexError):  # there is none, or another thread was faster
                names.append(jobs[0][0].queue)
        return names

    def withdraw(self, since: float) -> list[Job]:
        """Take out what has been there since that time, or longer."""
        withdrawn = []
        for jobs in self._jobs.values():
            with suppress(IndexError):  # others take, too
                while jobs[0][1] <= since:
                    withdrawn.append(jobs.popleft()[0])
        return withdrawn
