"""Decorators: functions that are called here and now, or enqueued for a worker to run."""
