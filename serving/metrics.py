"""What an operator can watch, in Prometheus form."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ready = self._gauge("ready", "1 while the gateway is ready")

        self.requests = self._counter(
            "requests", "Requests answered, by route and status", "route", "status"
        )
        self.refusals = self._counter("refusals", "Requests refused, by reason", "reason")
        self.request_s = self._histogram(
            "request_seconds", "Time from headers to answer", "route", buckets=FAST
        )

        self.rows = self._counter("rows", "Rows asked", "model")
        self.queue_rows = self._gauge("queue_rows", "Rows waiting", "model")
        self.batch_rows = self._histogram(
            "batch_rows", "Rows in a micro-batch", "model", buckets=SIZES
        )
        self.stage_s = self._histogram(
            "stage_seconds",
            "Time of a micro-batch in each stage: predict, score, respond (with load), store, explain",
            "model",
            "stage",
            buckets=FAST,
        )

        self.suspicion = self._histogram(
            "suspicion",
            "Largest suspicion in a micro-batch that has any, by detector",
            "model",
            "detector",
            buckets=SHARES,
        )
        self.alarms = self._counter("alarms", "Clients alarmed, by detector", "model", "detector")
        self.campaigns = self._counter(
            "campaigns", "Campaigns found, and times that they grew", "model"
        )
        self.drift = self._gauge(
            "drift",
            "1 while most clients' traffic is unlike what the detectors were calibrated on",
            "model",
        )

        self.store_errors = self._counter("store_errors", "Failures of the store")
        self.store_away = self._gauge(
            "store_away",
            "1 while the store is away and answers are given without it (store_away: serve)",
        )
        self.lost_races = self._counter("lost_races", "Compare-and-set races lost and run again")

        self.events = self._counter("events", "Events written to the log, by kind", "kind")
        self.events_dropped = self._counter("events_dropped", "Events that could not be written")
        self.webhook_failures = self._counter(
            "webhook_failures", "Events that the webhook did not take"
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"mantlet_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"mantlet_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, *labels: str, buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(f"mantlet_{name}", about, labels, buckets=buckets, registry=self.registry)

    def watch_queue(self, model: str, rows: Callable[[], float]) -> None:
        """Read the queue's length of a model whenever the metrics are read."""
        self.queue_rows.labels(model).set_function(rows)
