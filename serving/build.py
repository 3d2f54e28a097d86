"""From settings to running parts: secret, store, victims, detectors with their calibrations, gateways."""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog
import torch

import detectors
from mantlet.errors import ConfigError
from mantlet.plugin import Calibration, RememberingDefense, Setup
from mantlet.types import Kind
from serving import budget, calibration
from serving.admission import Admission
from serving.events.log import EventLog
from serving.events.webhook import Sender
from serving.explaining import Explaining
from serving.gateway import Gateway
from serving.keys import KeyFile
from serving.metrics import Metrics
from serving.patrol import Patrol
from serving.pipeline import Pipeline
from serving.service import Service
from serving.settings import Model, Settings
from serving.stores import open_store
from serving.stores.lenient import LenientStore

log = structlog.get_logger(__name__)


def keys_path(settings: Settings) -> Path:
    """Where the keys are: relative to ``data_dir``."""
    return settings.data_dir / settings.identity.keys


def secret_of(settings: Settings) -> bytes:
    """The gateway's secret: from the config, or a file made at the first start, for its owner only."""
    if settings.secret is not None:
        value = settings.secret.get_secret_value().encode()
        if len(value) < 16:
            raise ConfigError("secret: has under 16 characters; use: openssl rand -hex 32")
        return value
    path = settings.data_dir / "secret"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"data_dir '{settings.data_dir}' cannot be written: {error}") from error
    value = _read_secret(path)
    if len(value) < 16:
        raise ConfigError(f"secret file '{path}' is damaged; remove it (keyed noise will change)")
    return value


def _read_secret(path: Path) -> bytes:
    """What the file holds; an empty one may be just being written by another worker."""
    try:
        for pause_s in (0.01,) * 50:
            value = path.read_bytes().strip()
            if value:
                return value
            time.sleep(pause_s)
    except OSError as error:
        raise ConfigError(f"secret file '{path}' cannot be read: {error}") from error
    return b""


def build_service(settings: Settings, clock: Callable[[], float]) -> Service:
    """Everything but the models, which `load_model` adds."""
    secret = secret_of(settings)
    keys = KeyFile(keys_path(settings))
    keys.all()
    metrics = Metrics()
    sender = None
    if settings.webhook:
        sender = Sender(settings.webhook, clock, metrics.webhook_failures.inc)
    events = open_events(settings, clock, metrics=metrics, sender=sender)
    events.begin()
    store = open_store(
        settings.store, folder=settings.data_dir, remember_s=settings.remember_s, clock=clock
    )
    if settings.store_away == "serve":
        store = LenientStore(store, metrics.store_away.set)
    admission = Admission(
        settings.identity,
        settings.tiers,
        settings.overall,
        keys=keys,
        counters=store.counters,
        secret=secret,
    )
    return Service(settings, store, admission, events, clock, metrics)


def open_events(
    settings: Settings,
    clock: Callable[[], float],
    *,
    metrics: Metrics | None = None,
    sender: Sender | None = None,
) -> EventLog:
    """The log of events. Commands give no metrics and no sender: nobody else is told of what they write."""
    return EventLog.open(
        settings.events,
        folder=settings.data_dir,
        secret=secret_of(settings),
        clock=clock,
        most=settings.events_file_mib << 20,
        metrics=metrics,
        sender=sender,
    )


def load_pipeline(
    name: str, model: Model, settings: Settings, *, to_calibrate: bool = False
) -> Pipeline:
    """Load a model's victim and plug-ins; this is what takes time.

    Detectors that have not learned are told to the operator, unless they are there ``to_calibrate``.
    """
    device, secret = device_of(settings.device), secret_of(settings)
    model.victim.load(Setup(device, secret))
    victim = model.victim
    _check_kinds(name, model)
    setup = Setup(
        device,
        secret,
        shape=victim.input.shape,
        classes=victim.classes,
        victim=victim,
        model=name,
    )
    unlearned = _load_detectors(name, model, setup)
    for detector in () if to_calibrate else unlearned:
        remedy = "run: mantlet calibrate CONFIG --benign FILE"
        log.warning("detector_observes_only", model=name, detector=detector, remedy=remedy)
    explaining = None
    if model.explain is not None:
        explainer = victim.explainer(model.explain, secret)
        explaining = Explaining(explainer, victim.classes, model.explain)
        _warn_of_bare_maps(name, model)
    for plugin in (*model.defenses, *model.input_defenses):
        plugin.load(setup)
    return Pipeline(
        model.victim,
        model.detectors,
        model.defenses,
        input_defenses=model.input_defenses,
        levels=budget.sized(model),
        alpha=model.alpha,
        secret=secret,
        shadow=model.shadow,
        answer=model.answer,
        explaining=explaining,
    )


def device_of(name: str) -> torch.device:
    """Where torch runs, tried with one number; raises `ConfigError`."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used: {reason}; try cpu") from error
    return device


def _load_detectors(name: str, model: Model, setup: Setup) -> list[str]:
    """Each with what it learned; the names of those that should have learned and have not."""
    learned = _calibrations(name, model)
    for detector in model.detectors:
        detector.load(replace(setup, calibration=learned.get(detector.name)))
    return [d.name for d in model.detectors if d.needs_calibration and d.name not in learned]


def _warn_of_bare_maps(name: str, model: Model) -> None:
    """Log where maps leave as they are: of the first level are shadow mode, the allow list, and tiers not named."""
    of_maps = {d.name for d in model.defenses if Kind.ATTRIBUTIONS in d.kinds}
    first = model.policy[0] if model.policy else None
    run = {*first.defenses} if first else of_maps  # without a policy all of them
    if not of_maps & run and (first is None or first.explanations):
        log.warning(
            "explanations_undefended",
            model=name,
            level=first.name if first else "all",
            remedy="run explanation_display at the first level, and name tiers at the level that shows more",
        )


def _check_kinds(name: str, model: Model) -> None:
    """Raise `ConfigError` for defenses of other answers than the victim's, and detectors of other models."""
    victim = model.victim
    for detector in model.detectors:
        if victim.task not in detector.tasks:
            fitting = [n for n, d in sorted(detectors.known().items()) if victim.task in d.tasks]
            raise ConfigError(
                f"models.{name}: detector '{detector.name}' cannot watch a model that is there to"
                f" {victim.task}; take of {', '.join(fitting)}"
            )
    given = {victim.kind} if model.explain is None else {victim.kind, Kind.ATTRIBUTIONS}
    for defense in model.defenses:
        if not given & defense.kinds:
            raise ConfigError(
                f"models.{name}: defense '{defense.name}' is for {', '.join(sorted(defense.kinds))}, and"
                f" the victim answers {' and '.join(sorted(given))}; remove it"
            )
        if isinstance(defense, RememberingDefense) and Kind.ATTRIBUTIONS in defense.kinds:
            raise ConfigError(
                f"models.{name}: defense '{defense.name}' remembers what it answered, which is stored before"
                " an explanation is made; remove attributions from its kinds"
            )
    for rewriting in model.input_defenses:
        if victim.task not in rewriting.tasks:
            raise ConfigError(
                f"models.{name}: input defense '{rewriting.name}' is for models that"
                f" {', '.join(sorted(rewriting.tasks))}, and this one is there to {victim.task}; remove it"
            )
    if model.answer == "labels" and victim.kind is not Kind.PROBABILITIES:
        raise ConfigError(
            f"models.{name}: answer 'labels' is for classifiers, and this model is there to"
            f" {victim.task}; remove it"
        )


def _calibrations(name: str, model: Model) -> Mapping[str, Calibration]:
    """Calibrations made for these weights; of others none is used, and detectors only observe."""
    if model.calibration is None:
        return {}
    learned, made_for = calibration.read(model.calibration)
    if made_for != model.victim.fingerprint:
        log.warning(
            "calibration_of_other_weights",
            model=name,
            calibration=str(model.calibration),
            made_for=made_for[:12],
            victim=model.victim.fingerprint[:12],
            remedy="run: mantlet calibrate CONFIG --benign FILE",
        )
        return {}
    return learned


def load_model(service: Service, name: str) -> None:
    """Load one model of the config and put it behind its gateway."""
    settings = service.settings
    model = settings.models[name]
    pipeline = load_pipeline(name, model, settings)
    gateway = Gateway(
        name,
        pipeline,
        service.store,
        service.admission,
        queue=model.queue,
        clock=service.clock,
        metrics=service.metrics,
        events=service.events,
    )
    service.metrics.watch_queue(name, lambda: gateway.queued_rows)
    service.gateways[name] = gateway
    if model.campaigns.every_s is not None:
        patrol = Patrol(
            gateway,
            model.campaigns,
            model.drift,
            clock=service.clock,
            metrics=service.metrics,
            events=service.events,
        )
        patrol.start()
        service.patrols.append(patrol)
    log.info("model_ready", model=name, victim=model.victim.type, engine=model.victim.engine)
