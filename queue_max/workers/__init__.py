"""Everything that has a thread of its own to run jobs in."""
