"""What ``mantlet campaigns`` does: one look over the store of a gateway, running or not."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from mantlet.errors import ConfigError
from serving import build
from serving.drift import by_detector
from serving.patrol import look, shared_by
from serving.settings import Settings, require_model
from serving.stores import open_store
from serving.stores.base import Store, remembered


def search(settings: Settings, name: str, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """A report for each model, or the named one: campaigns with their members, and what drifts."""
    if name:
        require_model(settings, name)
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
    model = settings.models[name]
    pipeline = build.load_pipeline(name, model, settings)
    try:
        found = look(
            remembered(store, name),
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
