"""Orders over HTTP."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from shop import tasks
from shop.models import Order


@csrf_exempt  # asked by programs, that have no cookies
@require_POST
def place(request: HttpRequest) -> HttpResponse:
    """Take an order; the task is stored when the order is."""
    with transaction.atomic():
        order = Order.objects.create(email=request.POST["email"])
        order.task = tasks.confirm.enqueue(order.pk).id
        order.save()
        tasks.send.delay_on_commit(order.pk)
    return JsonResponse({"number": order.pk}, status=202)


@require_GET
def show(request: HttpRequest, number: int) -> HttpResponse:
    """Tell what became of an order."""
    order = get_object_or_404(Order, pk=number)
    result = tasks.confirm.get_result(order.task)
    told = {"status": result.status, "attempts": result.attempts, "confirmed": order.confirmed}
    return JsonResponse(told)
