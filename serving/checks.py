"""Everything that ``serve`` would stumble over, found before it serves."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import structlog

from detectors.sketch import Sketch
from mantlet.errors import MantletError, VictimError
from mantlet.plugin import EvidenceDetector
from serving import build
from serving.app import wall_clock
from serving.keys import HASHED, KeyFile
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.settings import Model, Settings
from serving.stores import open_store


@dataclass
class Report:
    """``mistakes`` keep the gateway from serving; ``warnings`` do not."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(settings: Settings) -> Report:
    """Open what ``serve`` opens: secret, keys, events, store, ports, victims, calibrations, plug-ins."""
    report = Report()
    _try(report, lambda: _check_keys(settings, report))
    _try(report, lambda: build.open_events(settings, wall_clock).begin())  # keyed with the secret
    _try(report, lambda: _open_store(settings, report))
    for what, host, port in (
        ("listen", settings.listen.host, settings.listen.port),
        ("admin", settings.admin.host, settings.admin.port),
    ):
        _check_port(report, what, host, port)
    if settings.identity.open:
        report.warnings.append("identity.open: everybody may ask, told apart by address only")
    for name in settings.models:
        _check_model(settings, name, report)
    return report


def _try(report: Report, step: Callable[[], object]) -> None:
    try:
        step()
    except MantletError as error:
        report.mistakes.append(str(error))


def _check_keys(settings: Settings, report: Report) -> None:
    keys = [key for key in KeyFile(build.keys_path(settings)).all() if not key.revoked]
    if not keys and not settings.identity.open:
        report.warnings.append(
            "identity: no key is in force, so everybody is refused; run: mantlet keys create"
        )
    for key in keys:
        if key.tier not in settings.tiers:
            report.warnings.append(
                f"key {key.id} of '{key.client}': tier '{key.tier}' is not in tiers; 'default' holds"
            )

    names = {key.client for key in keys}
    for entry in (*settings.identity.allow, *settings.identity.deny):
        if entry not in names and not entry.startswith("address:") and not HASHED.fullmatch(entry):
            report.warnings.append(
                f"identity: '{entry}' is no client of a key, no id and no 'address:IP': it matches nobody"
            )


def _open_store(settings: Settings, report: Report) -> None:
    folder = settings.data_dir
    with _warnings_to(report, "store"):
        open_store(
            settings.store, folder=folder, remember_s=settings.remember_s, clock=monotonic
        ).close()


def _check_port(report: Report, what: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # a host that is no host name is a UnicodeError
        reason = getattr(error, "strerror", None) or error
        report.mistakes.append(
            f"{what}.port = {port} on {host}: cannot listen there ({reason}); take another"
        )


def _check_model(settings: Settings, name: str, report: Report) -> None:
    model = settings.models[name]
    with _warnings_to(report, f"models.{name}"):
        try:
            pipeline = build.load_pipeline(name, model, settings)
            report.warnings += [
                f"models.{name}.policy: level '{level.name}' never holds: nothing that it listens to can speak;"
                " calibrate a detector, or let campaigns be searched for"
                for level in model.policy
                if not _may_hold(level, pipeline, model)
            ]
        except VictimError as error:
            report.warnings.append(f"models.{name}.victim: {error}; serve waits until it answers")
        except MantletError as error:
            where = f"models.{name}: "  # some say it themselves
            report.mistakes.append(where + str(error).removeprefix(where))
        finally:
            model.victim.close()


def _may_hold(level: Level, pipeline: Pipeline, model: Model) -> bool:
    """Whether one of a level's conditions may ever be met, by what was calibrated."""
    fold = pipeline.fold
    told = {d.name for d in fold.tested}
    silent = {d.name for d in model.detectors if isinstance(d, EvidenceDetector)} - told
    near = any(isinstance(d, Sketch) and d.enforces for d in model.detectors)
    searched = model.campaigns.every_s is not None and (bool(told) or near)
    return (
        level.unconditional
        or (level.rows or level.agreement) is not None
        or bool(level.signals.keys() - silent)
        or (level.campaign and searched)
        or (bool(fold.enforcing) and bool(level.suspicion or level.alarm))
    )


@contextmanager
def _warnings_to(report: Report, what: str) -> Iterator[None]:
    """What would be logged as a warning goes into the report, as one about ``what``."""
    with structlog.testing.capture_logs() as logged:
        yield
    for entry in logged:
        if entry["log_level"] == "warning":
            details = ", ".join(
                f"{k} {v}" for k, v in entry.items() if k not in ("event", "log_level", "model")
            )
            report.warnings.append(f"{what}: {entry['event']}: {details}")
