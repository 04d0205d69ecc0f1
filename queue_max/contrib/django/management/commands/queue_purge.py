"""`manage.py queue_purge`."""

from queue_max.cli.jobs import purge
from queue_max.contrib.django.management.hosted import PrintingCommand


class Command(PrintingCommand):
    """Deletes jobs that ended some days ago."""

    help = (
        "Delete jobs that ended some days ago; those whose dead letter is kept stay. Without "
        "--days the settings hold for each kind of job, and for dead letters."
    )
    command = purge
