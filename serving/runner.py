"""Runs the gateway: two ports in one loop, models loaded behind them, a graceful end."""

import asyncio
import contextlib
import gc
import hashlib
import multiprocessing
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import structlog
import torch
import uvicorn
from threadpoolctl import threadpool_limits

from mantlet import __version__
from mantlet.errors import ConfigError, MantletError, VictimError
from mantlet.types import Task
from serving import build, logs
from serving.admin import create_admin
from serving.app import create_app, wall_clock
from serving.encoding import JPEG, NPY, PNG
from serving.events.kinds import ConfigLoaded
from serving.gateway import VERBS
from serving.protocol import bounded
from serving.service import Service
from serving.settings import Settings, load
from serving.stores.redis import shown

log = structlog.get_logger(__name__)
EXAMPLES = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG}
GARBAGE = 50_000
"""New objects between two looks of the garbage collector."""
RETRY_S = 2.0
NOTICE_S = 0.5
"""After SIGTERM, how long connections are still taken, while readiness sends balancers away; and then
how long answers go out with ``Connection: close`` before idle connections are closed. Clients that are
sent away come back, so they are sent away only when nobody new is taken: the kernel would reset those
who wait to be."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: two servers share the process, and we end both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    settings: Settings, config: Path, overrides: Sequence[str], announce: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; with several workers, in as many processes.

    ``announce`` is told, once everything is ready, how to try it.
    """
    if settings.listen.workers == 1:
        _run_worker(settings, 0, announce)
        return
    # bound for as long as we live, so that workers asked for port 0 all get the same one
    bound = _bind("listen", settings.listen.host, settings.listen.port, shared=True)
    sets = [*overrides, f"listen.port={bound.getsockname()[1]}"]
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_worker, args=(str(config), sets, number))
        for number in range(settings.listen.workers)
    ]
    for worker in workers:
        worker.start()

    def end(*_: object) -> None:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    wait([worker.sentinel for worker in workers])
    end()  # one that died takes the others along: whoever supervises us starts all of them anew
    for worker in workers:
        worker.join()
    bad = {worker.exitcode or 0 for worker in workers} - {0, -signal.SIGTERM}
    if bad:
        sys.stderr.write(f"mantlet: a worker ended with {', '.join(map(str, sorted(bad)))}\n")
        sys.exit(2 if bad == {2} else 1)


def _worker(config: str, overrides: list[str], number: int) -> None:
    try:
        _run_worker(load(Path(config), overrides), number, lambda _: None)
    except MantletError as error:
        sys.stderr.write(f"mantlet: {error}\n")
        sys.exit(2)


def _run_worker(settings: Settings, number: int, announce: Callable[[str], None]) -> None:
    """One process: worker ``number`` has its admin port that many above the configured one."""
    logs.configure(settings.log_level)
    torch.set_num_threads(settings.threads)
    threadpool_limits(settings.threads)
    # the batch thread must get the interpreter back soon after a forward pass
    sys.setswitchinterval(0.0001)
    listen, admin = settings.listen, settings.admin
    data = _bind("listen", listen.host, listen.port, shared=listen.workers > 1)
    own = _bind("admin", admin.host, admin.port + (number if admin.port else 0), shared=False)
    service = build.build_service(settings, wall_clock)
    service.events.record(_config_loaded(settings, number))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(service, data, own, announce))
    finally:
        service.close()


def _config_loaded(settings: Settings, number: int) -> ConfigLoaded:
    """What the log of events tells of a start; the digest sees secrets blanked."""
    blanked = settings.model_copy(update={"store": shown(settings.store)})
    text = blanked.model_dump_json(serialize_as_any=True)
    return ConfigLoaded(
        version=__version__,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        models=tuple(settings.models),
        worker=number,
    )


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def _bind(what: str, host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"{what}.port = {port} on {host}: cannot listen there ({error.strerror}); take another"
        ) from error
    return bound


async def _serve(
    service: Service, data: socket.socket, admin: socket.socket, announce: Callable[[str], None]
) -> None:
    settings = service.settings
    stop = asyncio.Event()
    mistakes: list[MantletError] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = [
        _Server(_data_config(service)),
        _Server(_admin_config(service)),
    ]
    async with asyncio.TaskGroup() as tasks:
        for server, bound in zip(servers, (data, admin), strict=True):
            tasks.create_task(server.serve(sockets=[bound]))
        host, port = data.getsockname()[:2]
        tasks.create_task(
            _load_models(service, stop, mistakes, lambda: announce(_try_it(service, host, port)))
        )
        log.info("listening", host=host, port=port, admin_port=admin.getsockname()[1])
        if settings.identity.open:
            log.warning("open_mode", meaning="everybody may ask; clients are told apart by address")
        await stop.wait()
        service.draining = True
        log.info("draining", for_at_most_s=settings.listen.drain_s)
        await asyncio.sleep(NOTICE_S)
        for listener in getattr(servers[0], "servers", []):  # there once uvicorn has started
            listener.close()
        service.leaving = True
        await asyncio.sleep(NOTICE_S)
        for server in servers:
            server.should_exit = True
    log.info("stopped")
    if mistakes:
        raise mistakes[0]


def _data_config(service: Service) -> uvicorn.Config:
    listen = service.settings.listen
    return uvicorn.Config(
        create_app(service),
        http=bounded(listen),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(listen.trusted_proxies),
        forwarded_allow_ips=list(listen.trusted_proxies),
        timeout_keep_alive=int(listen.keep_alive_s),
        timeout_graceful_shutdown=int(listen.drain_s),
        backlog=2048,
    )


def _admin_config(service: Service) -> uvicorn.Config:
    """With the bounds of the clients' port: its token is asked for after the headers."""
    return uvicorn.Config(
        create_admin(service),
        http=bounded(service.settings.listen),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


async def _load_models(
    service: Service,
    stop: asyncio.Event,
    mistakes: list[MantletError],
    when_ready: Callable[[], None],
) -> None:
    """Load every model; wait for upstreams that are down, and end at a mistake of the config."""
    waiting = list(service.settings.models)
    while waiting and not stop.is_set():
        try:
            waiting = [name for name in waiting if not await _load_model(service, name)]
        except MantletError as error:
            mistakes.append(error)
            stop.set()
        if waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
    if service.ready:
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk through it again
        gc.set_threshold(GARBAGE)  # requests leave few cycles: look for them rarely
        log.info("ready", models=sorted(service.gateways))
        when_ready()


async def _load_model(service: Service, name: str) -> bool:
    """Whether the model could be loaded; one whose upstream is down is tried again later."""
    try:
        await asyncio.to_thread(build.load_model, service, name)
    except VictimError as error:
        service.settings.models[name].victim.close()
        log.warning("victim_not_ready", model=name, error=str(error), again_in_s=RETRY_S)
        return False
    return True


def _try_it(service: Service, host: str, port: int) -> str:
    """A curl line a model, which posts the model's example."""
    lines = []
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # compared, not bound
    key = "" if service.settings.identity.open else " -H 'Authorization: Bearer YOUR_KEY'"
    for name, model in service.settings.models.items():
        task = model.victim.task
        url = f" http://{shown}:{port}/v1/models/{name}:{VERBS[task]}"
        if task is Task.GENERATE:
            wish = " -H 'Accept: image/png' -d '{\"n\": 16, \"seed\": 1}' -o pictures.png"
            lines.append(f"Try it: curl{key}{wish}{url}")
        if model.example is None:
            continue
        kind = EXAMPLES.get(model.example.suffix.lower(), NPY)
        path = shlex.quote(os.path.relpath(model.example))
        out = " -o picture.png" if task is Task.TRANSLATE else ""
        asked = f"curl -H 'Content-Type: {kind}'{key} --data-binary @{path}"
        lines.append(f"Try it: {asked}{out}{url}")
        if model.explain:
            where = url.rpartition(":")[0]
            lines.append(f"Why: {asked} -H 'Accept: image/png' -o why.png{where}:explain")
    return "\n".join(lines)
