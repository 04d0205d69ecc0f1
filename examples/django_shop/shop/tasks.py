"""What the shop does in the background; `manage.py queue_worker` imports this module."""

import os
import time

from django.db.models import F

from queue_max.contrib.django import task as queue_task
from shop.models import Order

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task


@task
def confirm(number: int) -> str:
    """Confirm an order; the time stands for a talk with the bank."""
    time.sleep(float(os.environ.get("SHOP_SECONDS", "0.1")))
    Order.objects.filter(pk=number).update(confirmed=F("confirmed") + 1)
    return f"order {number} is confirmed"


@queue_task(queue="mail", max_retries=5, keep_result=3600)
def send(number: int) -> str:
    """Send a mail, by a task of Queue Max's own kind."""
    return f"to {Order.objects.get(pk=number).email}: thank you"
