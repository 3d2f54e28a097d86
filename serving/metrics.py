"""What an operator can watch, in Prometheus form."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "mantlet_requests",
            "Requests answered, by route and status",
            ("route", "status"),
            registry=r,
        )
        self.rows = Counter("mantlet_rows", "Rows asked", ("model",), registry=r)
        self.refusals = Counter(
            "mantlet_refusals", "Requests refused, by reason", ("reason",), registry=r
        )
        self.request_s = Histogram(
            "mantlet_request_seconds",
            "Time from headers to answer",
            ("route",),
            buckets=FAST,
            registry=r,
        )
        self.stage_s = Histogram(
            "mantlet_stage_seconds",
            "Time of a micro-batch in each stage: predict, score, respond (with load), store",
            ("model", "stage"),
            buckets=FAST,
            registry=r,
        )
        self.batch_rows = Histogram(
            "mantlet_batch_rows", "Rows in a micro-batch", ("model",), buckets=SIZES, registry=r
        )
        self.queue_rows = Gauge("mantlet_queue_rows", "Rows waiting", ("model",), registry=r)
        self.suspicion = Histogram(
            "mantlet_suspicion",
            "Largest suspicion in a micro-batch, by detector",
            ("model", "detector"),
            buckets=SHARES,
            registry=r,
        )
        self.alarms = Counter(
            "mantlet_alarms", "Clients alarmed, by detector", ("model", "detector"), registry=r
        )
        self.store_errors = Counter("mantlet_store_errors", "Failures of the store", registry=r)
        self.store_away = Gauge(
            "mantlet_store_away",
            "1 while the store is away and answers are given without it (store_away: serve)",
            registry=r,
        )
        self.lost_races = Counter(
            "mantlet_lost_races", "Compare-and-set races lost and run again", registry=r
        )
        self.events = Counter(
            "mantlet_events", "Events written to the log, by kind", ("kind",), registry=r
        )
        self.events_dropped = Counter(
            "mantlet_events_dropped", "Events that could not be written", registry=r
        )
        self.webhook_failures = Counter(
            "mantlet_webhook_failures", "Events that the webhook did not take", registry=r
        )
        self.ready = Gauge("mantlet_ready", "1 while the gateway is ready", registry=r)

    def watch_queue(self, model: str, rows: Callable[[], float]) -> None:
        """Read the queue's length of a model whenever the metrics are read."""
        self.queue_rows.labels(model).set_function(rows)
