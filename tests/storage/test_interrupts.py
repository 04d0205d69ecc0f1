"""A signal handler that raises, as Ctrl-C's does, may strike amid any statement of ours."""

from pathlib import Path
from typing import Any

# Interrupts a producer at random moments; after each, it and another program must be able to write.
INTERRUPTED = """
import math, random, signal, sys
from queue_max import Queue
from queue_max.storage import driver
queue = Queue(1, math.inf, data_dir=sys.argv[1], durability="normal")
other = driver.choose().module.connect(sys.argv[1] + "/shard_0.db", isolation_level=None, timeout=1)
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(1)
for number in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.02))
        while True:
            queue.enqueue({"number": number})
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    queue.enqueue({"after": number})
other.close()
queue.close()
print("as before")
"""


def test_an_interrupted_producer_leaves_no_shard_locked_and_can_go_on(
    data_dir: Path, start_process: Any
) -> None:
    assert start_process(INTERRUPTED, data_dir).output(timeout=240)[-1] == "as before"
