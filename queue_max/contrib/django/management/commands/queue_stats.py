"""`manage.py queue_stats`."""

from queue_max.cli.stats import stats
from queue_max.contrib.django.management.hosted import PrintingCommand


class Command(PrintingCommand):
    """Counts the jobs by state."""

    help = "Count the jobs of the project's queue by state."
    command = stats
