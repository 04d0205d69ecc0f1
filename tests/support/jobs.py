"""Jobs to test with."""

from typing import Any

from queue_max.domain.identity import new_uid
from queue_max.domain.job import NewJob


def a_new_job(**fields: Any) -> NewJob:
    defaults: dict[str, Any] = {
        "payload": '{"n":1}',
        "uid": new_uid(),
        "pagina_id": None,
        "priority": 0,
        "max_attempts": 4,
        "retry_delay": 60,
    }
    return NewJob(**defaults | fields)
