"""What the shop keeps."""

from django.db import models


class Order(models.Model):
    """An order; `confirmed` counts how often that was done: twice does no harm, never does."""

    email = models.EmailField()
    task = models.CharField(max_length=64, blank=True)
    confirmed = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.email}"
