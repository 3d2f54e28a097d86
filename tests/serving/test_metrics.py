"""What is counted."""

from prometheus_client import generate_latest

from serving.metrics import Metrics


def test_every_metric_says_what_it_counts() -> None:
    families = list(Metrics().registry.collect())

    assert len(families) >= 12
    assert all(family.documentation and family.name.startswith("mantlet_") for family in families)


def test_two_services_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.lost_races.inc()

    assert b"mantlet_lost_races_total 1.0" in generate_latest(one.registry)
    assert b"mantlet_lost_races_total 0.0" in generate_latest(other.registry)


def test_no_series_tells_when_it_was_made() -> None:
    assert b"_created" not in generate_latest(Metrics().registry)


def test_the_queue_is_read_when_the_metrics_are() -> None:
    metrics = Metrics()
    waiting = [3.0]
    metrics.watch_queue("mnist", lambda: waiting[0])
    first = generate_latest(metrics.registry)
    waiting[0] = 5.0

    assert b'mantlet_queue_rows{model="mnist"} 3.0' in first
    assert b'mantlet_queue_rows{model="mnist"} 5.0' in generate_latest(metrics.registry)


def test_latencies_are_told_apart_from_a_tenth_of_a_millisecond() -> None:
    metrics = Metrics()
    metrics.stage_s.labels("mnist", "predict").observe(0.00009)
    text = generate_latest(metrics.registry).decode()

    assert 'mantlet_stage_seconds_bucket{le="0.0001",model="mnist",stage="predict"} 1.0' in text
