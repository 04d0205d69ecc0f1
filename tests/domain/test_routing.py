import random

from hypothesis import given, settings
from hypothesis import strategies as st

from queue_max.domain.routing import scan_order, shard_for

law = settings(derandomize=True, deadline=None)
PAGINA_IDS = st.integers(-(2**63), 2**63)
SHARD_COUNTS = st.integers(1, 1024)


@law
@given(pagina_id=PAGINA_IDS, count=SHARD_COUNTS, seeds=st.tuples(st.integers(), st.integers()))
def test_a_pagina_id_always_leads_to_the_same_shard(
    pagina_id: int, count: int, seeds: tuple[int, int]
) -> None:
    first, second = (shard_for(pagina_id, count, random.Random(seed)) for seed in seeds)
    assert first == second
    assert first in range(count)


@law
@given(pagina_id=PAGINA_IDS, count=SHARD_COUNTS)
def test_the_shard_is_the_one_the_predecessor_chose(pagina_id: int, count: int) -> None:
    assert shard_for(pagina_id, count, random.Random(0)) == pagina_id % count


@law
@given(count=SHARD_COUNTS, seed=st.integers())
def test_without_a_pagina_id_some_shard_is_chosen(count: int, seed: int) -> None:
    assert shard_for(None, count, random.Random(seed)) in range(count)


def test_a_pagina_id_of_0_is_not_none() -> None:
    assert {shard_for(0, 6, random.Random(seed)) for seed in range(50)} == {0}


def test_chance_reaches_every_shard_about_equally() -> None:
    rng = random.Random(1)
    chosen = [shard_for(None, 6, rng) for _ in range(6000)]
    assert all(900 < chosen.count(shard_id) < 1100 for shard_id in range(6))


@law
@given(shard_ids=st.lists(st.integers(), unique=True), seed=st.integers())
def test_each_shard_is_looked_at_once(shard_ids: list[int], seed: int) -> None:
    given = list(shard_ids)
    assert sorted(scan_order(shard_ids, random.Random(seed))) == sorted(given)
    assert shard_ids == given


def test_each_shard_has_its_turn_to_be_the_first() -> None:
    rng = random.Random(1)
    firsts = [scan_order(range(6), rng)[0] for _ in range(6000)]
    assert all(900 < firsts.count(shard_id) < 1100 for shard_id in range(6))
