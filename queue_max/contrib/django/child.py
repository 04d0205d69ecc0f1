"""Sets Django up where it is imported: in processes that run single jobs."""

import django

from queue_max.contrib.django.connections import tidy_round_jobs

django.setup()
tidy_round_jobs()
