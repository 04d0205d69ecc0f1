import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from queue_max.domain import identity
from queue_max.domain.identity import new_uid

JANUARY_2026 = 1_767_225_600_000
"""Milliseconds since 1970."""


def uid_of(monkeypatch: pytest.MonkeyPatch, milliseconds: float, noise: int = 0) -> str:
    """Make a uid at a given time, of random bytes that all are `noise`."""
    clock = SimpleNamespace(time_ns=lambda: int(milliseconds * 1_000_000))
    monkeypatch.setattr(identity, "time", clock)
    monkeypatch.setattr(identity, "os", SimpleNamespace(urandom=lambda n: bytes([noise] * n)))
    return new_uid()


def test_a_uid_is_written_in_the_usual_36_characters() -> None:
    uid = new_uid()
    assert str(uuid.UUID(uid)) == uid


@pytest.mark.parametrize("noise", [0x00, 0x55, 0xAA, 0xFF])
def test_a_uid_has_version_7_and_the_variant_of_the_rfc(
    monkeypatch: pytest.MonkeyPatch, noise: int
) -> None:
    uid = uuid.UUID(uid_of(monkeypatch, JANUARY_2026, noise))
    assert uid.version == 7
    assert uid.variant == uuid.RFC_4122


@pytest.mark.parametrize("noise", [0x00, 0xFF])
def test_a_uid_begins_with_its_time_in_milliseconds(
    monkeypatch: pytest.MonkeyPatch, noise: int
) -> None:
    uid = uuid.UUID(uid_of(monkeypatch, JANUARY_2026 + 0.9, noise))
    assert uid.int >> 80 == JANUARY_2026


def test_all_other_bits_of_a_uid_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    none, all_ = (uuid.UUID(uid_of(monkeypatch, JANUARY_2026, n)).int for n in (0x00, 0xFF))
    assert (none ^ all_).bit_count() == 74


def test_a_later_millisecond_gives_a_greater_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    last = uid_of(monkeypatch, JANUARY_2026, noise=0xFF)
    first = uid_of(monkeypatch, JANUARY_2026 + 1, noise=0x00)
    assert last < first


def test_uids_made_at_once_by_many_threads_are_all_different() -> None:
    threads, each = 8, 2000
    barrier = threading.Barrier(threads)

    def make_many(_: int) -> list[str]:
        barrier.wait()
        return [new_uid() for _ in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        uids = [uid for many in pool.map(make_many, range(threads)) for uid in many]
    assert len(set(uids)) == threads * each
