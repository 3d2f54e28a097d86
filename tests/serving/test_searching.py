"""One look from the command line tells what the patrol would, and changes nothing."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mantlet.errors import ConfigError
from serving import build, settings
from serving.folding import EVIDENCE, Memory
from serving.searching import search
from serving.settings import Settings
from serving.stores import open_store
from serving.stores.base import Entry, Store
from tests.helpers import config, write_config


@pytest.fixture
def loaded(root: Path, tmp_path: Path) -> Settings:
    raw = config(root, tmp_path, store="sqlite:///state.db")
    return settings.load(write_config(tmp_path / "mantlet.yaml", raw))


@pytest.fixture
def store(loaded: Settings) -> Iterator[Store]:
    with closing(
        open_store(loaded.store, folder=loaded.data_dir, remember_s=1e9, clock=clock)
    ) as s:
        yield s


def clock() -> float:
    return 1000.0


def remember(loaded: Settings, store: Store, thieves: int) -> None:
    """Thieves whose every bet has paid well, and a hundred clients who never won."""
    model = loaded.models["mnist"]
    pipeline = build.load_pipeline("mnist", model, loaded)
    pipeline.victim.close()
    fold = pipeline.fold

    def memory(worth: float) -> Memory:
        wealth = np.full_like(fold.evidence.initial(), worth)
        return {EVIDENCE: {"wealth": wealth, "rows": np.array([100, fold.columns])}}

    entries = {f"mnist/thief {i}": Entry(0, memory(2000.0)) for i in range(thieves)}
    entries |= {f"mnist/honest {i}": Entry(0, memory(0.01)) for i in range(100)}
    assert not store.swap_many(entries, clock())


def test_a_campaign_is_told_with_its_members_and_nothing_is_changed(
    loaded: Settings, store: Store
) -> None:
    remember(loaded, store, thieves=40)
    before = dict(store.scan(""))
    (report,) = search(loaded, "", clock)
    (campaign,) = report["campaigns"]

    assert (report["model"], report["clients"], report["drifts"]) == ("mnist", 140, [])
    assert (campaign["size"], campaign["new"], campaign["alarm"]) == (40, 40, True)
    assert set(campaign["members"]) == {f"thief {i}" for i in range(40)}
    assert {key: e.version for key, e in store.scan("")} == {
        k: e.version for k, e in before.items()
    }


def test_of_honest_clients_nothing_is_told(loaded: Settings, store: Store) -> None:
    remember(loaded, store, thieves=0)
    (report,) = search(loaded, "mnist", clock)

    assert report["campaigns"] == []


def test_an_unknown_model_and_a_store_that_is_gone_are_told(loaded: Settings) -> None:
    with pytest.raises(ConfigError, match="model 'mnits' is unknown; did you mean 'mnist'"):
        search(loaded, "mnits", clock)
    with pytest.raises(ConfigError, match="nothing to look at"):
        search(loaded.model_copy(update={"store": "memory://"}), "", clock)
