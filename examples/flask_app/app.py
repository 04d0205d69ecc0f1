"""A Flask app that answers at once, and leaves letters to workers in processes of their own.

In this folder:

    gunicorn --preload --workers 2 'app:create_app()'
    flask queue-max worker --workers 4

    curl -i localhost:8000/customers --json '{"number": 7, "address": "ada@example.com"}'
    curl localhost:8000/jobs/<key>
    flask queue-max stats

FLASK_SHOP, FLASK_OUTBOX and FLASK_QUEUE_MAX_DATA_DIR in the environment change where things lie.
Kill the worker while it writes: the next one writes that letter.
"""

from typing import Any

from flask import Flask, abort, request, url_for
from mails import jobs, welcome
from werkzeug.exceptions import UnprocessableEntity

from queue_max import InvalidJobError, JobNotFoundError, ShardNotFoundError


def create_app() -> Flask:
    """Make the app; gunicorn and `flask` call this."""
    app = Flask(__name__)
    app.config.update(SHOP="the shop", OUTBOX="outbox", SECONDS_A_LETTER=0.0)
    app.config.update(QUEUE_MAX_DATA_DIR="data", QUEUE_MAX_SHARDS=2)
    app.config.from_prefixed_env()
    jobs.init_app(app)
    app.add_url_rule("/customers", view_func=greet, methods=["POST"])
    app.add_url_rule("/jobs/<key>", view_func=tell)
    return app


def greet() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Have a customer welcomed, once even if the request comes twice."""
    match request.get_json():
        case {"number": int(number), "address": str(address)}:
            job = welcome.using(unique_key=f"welcome-{number}").delay(number, address)
            return {"key": job.key}, 202, {"Location": url_for("tell", key=job.key)}
    raise UnprocessableEntity("a customer has a number and an address")


def tell(key: str) -> dict[str, Any]:
    """Tell how a job is."""
    try:
        job = jobs.queue.get_job(key)
    except (InvalidJobError, JobNotFoundError, ShardNotFoundError):
        abort(404)
    return {"status": job.status, "attempts": job.attempts, "error": job.last_error}
