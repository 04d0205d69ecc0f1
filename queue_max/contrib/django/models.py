"""Names for Django's admin and its permissions: jobs and dead letters. They have no tables."""

from typing import Any

from django.db import models


class _Nothing(models.Manager):
    """Finds nothing, and asks no database: commands such as `dumpdata` go through all models."""

    def get_queryset(self) -> Any:
        return super().get_queryset().none()


class Job(models.Model):
    """A job of the project's queue."""

    key = models.CharField(primary_key=True, max_length=80)

    objects = _Nothing()

    class Meta:
        """Of a table that nobody makes."""

        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return str(self.key)


class DeadLetter(models.Model):
    """What is kept of a job that failed for good."""

    key = models.CharField(primary_key=True, max_length=80)

    objects = _Nothing()

    class Meta:
        """Of a table that nobody makes."""

        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return str(self.key)
