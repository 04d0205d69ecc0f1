"""`python -m queue_max`: the command line, where the script `queue-max` is not on the path."""

from queue_max.cli import main

main()
