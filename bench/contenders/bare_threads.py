"""Threads that do the jobs' work without any queue: what no queue can beat."""

import threading
import time

from .protocol import Outcome, Request, receive, send, wait_for_start
from .tally import Tally, payload


def work(request: Request) -> Outcome:
    """Run the jobs' function for all jobs, shared out among the threads beforehand."""
    tally = Tally(request)
    jobs = [payload(number) for number in range(request.jobs)]

    def run(first: int) -> None:
        for job in jobs[first :: request.threads]:
            tally.run(job)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(request.threads)]
    started = wait_for_start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.ended = time.monotonic()
    return tally.outcome(started)


if __name__ == "__main__":
    send(work(receive()))
