"""The pages of Django's admin, asked for as a browser does."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client
from support.django_project.shop import tasks

from queue_max import Queue

JOBS, LETTERS = "/admin/queue_max/job/", "/admin/queue_max/deadletter/"

pytestmark = pytest.mark.usefixtures("database")

As = Callable[..., Client]


@pytest.fixture
def client_of() -> As:
    """Give a browser in which a member of staff with these permissions is logged in."""

    def client_of(*permissions: str, is_staff: bool = True, **options: Any) -> Client:
        user = User.objects.create_user(f"u{User.objects.count()}", is_staff=is_staff)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client(**options)
        client.force_login(user)
        return client

    return client_of


@pytest.fixture
def client(client_of: As) -> Client:
    return client_of("view_job", "change_job", "view_deadletter", "change_deadletter")


def text_of(client: Client, url: str, **query: Any) -> str:
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def fail(queue: Queue, payload: dict[str, Any] | None = None) -> str:
    """Give the key of a job that has failed for good."""
    key = queue.enqueue(payload or {}, max_retries=0).key
    while (job := queue.pop_job("worker-1")) is not None:
        queue.fail_job(job.id, job.shard_id, ValueError("no money"))
    return key


def test_jobs_are_listed_by_status_queue_and_shard(queue: Queue, client: Client) -> None:
    here, there = queue.enqueue({}, pagina_id=0).key, queue.enqueue({}, pagina_id=1).key
    mail = queue.enqueue({}, queue="mail", pagina_id=0).key
    gone = queue.enqueue({}, pagina_id=0).key
    queue.cancel(gone)

    def listed(**query: Any) -> set[str]:
        page = text_of(client, JOBS, **query)
        return {key for key in (here, there, mail, gone) if f">{key}</a>" in page}

    assert listed() == {here, there, mail, gone}
    assert listed(status="cancelled") == {gone}
    assert listed(queue="mail") == {mail}
    assert listed(shard=1) == {there}
    assert listed(status="pending", shard=0, queue="default") == {here}


def test_a_bad_filter_is_told(queue: Queue, client: Client) -> None:
    assert "Shard=&#x27;x&#x27;: should be a whole number" in text_of(client, JOBS, shard="x")
    assert "&#x27;odd&#x27; is not a valid JobStatus" in text_of(client, JOBS, status="odd")
    assert "Shard 7: does not exist" in text_of(client, JOBS, shard=7)


def test_a_job_is_found_by_its_key(queue: Queue, client: Client) -> None:
    key = queue.enqueue({"n": 5}).key
    response = client.get(JOBS, {"key": f" {key} "}, follow=True)
    assert response.redirect_chain == [(f"{JOBS}{key}/change/", 302)]
    assert "&quot;n&quot;: 5" in response.content.decode()
    for bad in ("0-123", "nonsense", "7-1"):
        assert client.get(JOBS, {"key": bad}, follow=True).status_code == 404


def test_the_page_of_a_job_tells_its_payload_result_and_attempts(
    queue: Queue, client: Client
) -> None:
    result = tasks.flaky.enqueue(2)
    queue.drain(scheduled=True)
    page = text_of(client, f"{JOBS}{result.id}/change/")
    assert "ConnectionError: attempt 1" in page
    assert "<h2>Result</h2><pre>2</pre>" in page
    assert "completed" in page


def test_what_users_wrote_is_escaped(queue: Queue, client: Client) -> None:
    script = "<script>alert(1)</script>"
    key = queue.enqueue({"text": script}, max_retries=0, task="<b>task").key
    job = queue.pop_job("worker-1")
    assert job is not None
    queue.fail_job(job.id, job.shard_id, ValueError(script))
    for url in (JOBS, LETTERS, f"{JOBS}{key}/change/", f"{LETTERS}{key}/change/"):
        page = text_of(client, url)
        assert script not in page
        assert "<b>task" not in page
        assert "&lt;script&gt;" in page


def test_jobs_are_cancelled_retried_and_discarded(queue: Queue, client: Client) -> None:
    failed, other = fail(queue), fail(queue)
    waiting = queue.enqueue({}).key
    client.post(JOBS, {"action": "cancel", "key": [waiting]})
    assert queue.get_job(waiting).is_cancelled
    client.post(JOBS, {"action": "retry", "key": [failed]})
    assert queue.get_job(failed).is_pending
    client.post(JOBS, {"action": "discard", "key": [other]})
    assert queue.dead_letters.list() == []


def test_dead_letters_are_listed_and_chosen_by_error(queue: Queue, client: Client) -> None:
    key = fail(queue, {"n": 7})
    assert f">{key}</a>" in text_of(client, LETTERS)
    assert f">{key}</a>" in text_of(client, LETTERS, error_type="ValueError")
    assert f">{key}</a>" not in text_of(client, LETTERS, error_type="KeyError")
    page = text_of(client, f"{LETTERS}{key}/change/")
    assert "no money" in page
    assert "&quot;n&quot;:7" in page


def test_dead_letters_are_requeued_and_discarded(queue: Queue, client: Client) -> None:
    first, second = fail(queue), fail(queue)
    response = client.post(f"{LETTERS}{first}/change/", {"action": "requeue"}, follow=True)
    assert "Requeue: 1 of 1 done." in response.content.decode()
    assert queue.get_job(first).is_pending
    client.post(LETTERS, {"action": "discard", "key": [second]})
    assert queue.dead_letters.list() == []


def test_what_cannot_be_done_is_told(queue: Queue, client: Client) -> None:
    done = queue.enqueue({}).key
    queue.cancel(done)
    for action, words in (
        ("cancel", "is in no state for this."),
        ("retry", "is in no state for this."),
        ("discard", "has no dead letter"),
        ("explode", "Choose what is to be done."),
    ):
        response = client.post(JOBS, {"action": action, "key": [done]}, follow=True)
        assert words in response.content.decode()


@pytest.mark.parametrize("url", [JOBS, LETTERS])
def test_nobody_sees_jobs_without_the_permission(queue: Queue, client_of: As, url: str) -> None:
    key = fail(queue)
    stranger, visitor = client_of(), client_of("view_job", "view_deadletter", is_staff=False)
    for page in (url, f"{url}{key}/change/"):
        assert stranger.get(page).status_code == 403
        assert visitor.get(page).status_code == 302  # to the login
        assert Client().get(page).status_code == 302


@pytest.mark.parametrize("url", [JOBS, LETTERS])
def test_who_may_only_look_changes_nothing(queue: Queue, client_of: As, url: str) -> None:
    key = fail(queue)
    viewer = client_of("view_job", "view_deadletter")
    assert 'name="action"' not in text_of(viewer, url)
    assert 'name="action"' not in text_of(viewer, f"{url}{key}/change/")
    for page in (url, f"{url}{key}/change/"):
        for action in ("retry", "requeue", "discard", "cancel"):
            assert viewer.post(page, {"action": action, "key": [key]}).status_code == 403
    assert queue.get_job(key).is_failed


def test_a_change_needs_a_post_with_the_token(queue: Queue, client_of: As) -> None:
    careful = client_of("view_job", "change_job", enforce_csrf_checks=True)
    key = queue.enqueue({}).key
    assert careful.post(JOBS, {"action": "cancel", "key": [key]}).status_code == 403
    careful.get(f"{JOBS}{key}/change/", {"action": "cancel"})
    careful.get(JOBS, {"action": "cancel", "key": key})
    assert queue.get_job(key).is_pending
    token = careful.cookies["csrftoken"].value
    careful.post(JOBS, {"action": "cancel", "key": [key], "csrfmiddlewaretoken": token})
    assert queue.get_job(key).is_cancelled


def test_where_there_is_no_queue_yet_the_page_says_so(client: Client) -> None:
    assert "There is no queue in" in text_of(client, JOBS)
    assert "There is no queue in" in text_of(client, f"{JOBS}0-1/change/")


def test_the_index_leads_to_both_lists(client: Client) -> None:
    page = text_of(client, "/admin/")
    assert f'href="{JOBS}"' in page
    assert f'href="{LETTERS}"' in page
    assert "/add/" not in page


def test_the_models_need_no_migration_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("makemigrations", "--check", "--dry-run")
    call_command("dumpdata", "queue_max")
    assert "[]" in capsys.readouterr().out
