"""What is `memory://`'s own; the rest of its promises are in test_stores.py."""

from pathlib import Path

import numpy as np

from serving.stores import open_store
from serving.stores.base import Entry
from serving.stores.memory import MemoryStore


def test_two_stores_share_nothing() -> None:
    first, second = (
        open_store("memory://", folder=Path(), remember_s=60, clock=lambda: 0.0) for _ in range(2)
    )
    first.swap_many({"a": Entry(0, {"rate": {"used": np.ones(1)}})}, 0.0)

    assert second.load_many(["a"], 0.0)["a"] == Entry(0, {})


def test_a_closed_store_has_forgotten_everything() -> None:
    store = open_store("memory://", folder=Path(), remember_s=60, clock=lambda: 0.0)
    store.swap_many({"a": Entry(0, {"rate": {"used": np.ones(1)}})}, 0.0)
    store.close()

    assert store.load_many(["a"], 0.0)["a"] == Entry(0, {})


def test_clients_whose_time_is_over_take_no_memory() -> None:
    store = MemoryStore(lambda: 0.0, 60.0)
    for second in range(200):
        store.swap_many({f"client-{second}": Entry(0, {"rate": {"used": np.ones(1)}})}, second)

    assert len(store._entries) == 60
