"""The command line: parse, call the library, print.

Exit codes: 0 done, 1 failure, 2 usage, 3 database or schema, 4 not found, 5 unhealthy, 6 when a
worker took running jobs back because their grace was over, 130 interrupted, 130 and 143 when a
second signal ended a worker. Of several worker processes, the highest code.
"""

from queue_max.cli.main import main

__all__ = ["main"]
