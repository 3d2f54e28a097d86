"""What ``mantlet campaigns`` does: one look over the store of a gateway, running or not."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from mantlet.errors import ConfigError
from mantlet.registry import did_you_mean
from serving import build
from serving.drift import by_detector
from serving.patrol import look, shared_by
from serving.settings import Settings
from serving.stores import open_store
from serving.stores.base import Store


def search(settings: Settings, name: str, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """A report for each model, or the named one: campaigns with their members, and what drifts."""
    if name and name not in settings.models:
        raise ConfigError(f"model '{name}' is unknown; {did_you_mean(name, settings.models)}")
    if settings.store.startswith("memory:"):
        raise ConfigError(
            f"store '{settings.store}' is gone with its gateway: nothing to look at; set a sqlite:///"
            " or redis:// store, or ask the admin port for /campaigns"
        )
    store = open_store(
        settings.store, folder=settings.data_dir, remember_s=settings.remember_s, clock=clock
    )
    with closing(store):
        return [_report(settings, store, m, clock()) for m in ([name] if name else settings.models)]


def _report(settings: Settings, store: Store, name: str, at: float) -> dict[str, Any]:
    model, prefix = settings.models[name], f"{name}/"
    pipeline = build.load_pipeline(name, model, settings)
    try:
        found = look(
            ((key.removeprefix(prefix), e.memory) for key, e in store.scan(prefix) if e.memory),
            pipeline,
            model.campaigns,
            model.drift,
            shared=shared_by(store, name, at),
            at=at,
        )
    finally:
        pipeline.victim.close()
    drifts = by_detector(pipeline.fold, found.drifts)
    return {
        "model": name,
        "clients": found.clients,
        "drifts": [detector for detector, part in drifts.items() if part.any()],
        "campaigns": [
            {
                "campaign": f"{one.number:x}",
                "size": len(one.members),
                "new": len(one.new),
                "rows": one.rows,
                "suspicion": round(one.suspicion, 3),
                "alarm": one.alarm,
                "linked": round(one.linked, 3),
                "members": one.members,
            }
            for one in found.campaigns
        ],
    }
