"""The contenders: each module is run in a process, and an environment, of its own.

They run with `bench/` as their working directory, as `python -m contenders.<name>`: the checkout
itself must not be on the path of a peer that is called `queue_max`, too. Hence the relative
imports, and hence nothing but the standard library and the contender itself is imported here.
"""
