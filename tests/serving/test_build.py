import stat
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
import torch
from prometheus_client import generate_latest

from mantlet.errors import ConfigError, MantletError, RequestError, StoreAway, WeightsError
from mantlet.plugin import RememberingDefense
from mantlet.types import Kind, State
from serving import build, calibration, settings
from serving.events.kinds import Unban
from serving.settings import Settings
from tests.helpers import config, query, rows, write_config
from tests.redis_server import redis_server
from tests.serving.victims.models import linear


def load(root: Path, tmp_path: Path, **changes: Any) -> Settings:
    return settings.load(write_config(tmp_path / "g.yaml", config(root, tmp_path, **changes)))


def test_a_secret_is_made_once_for_its_owner_only(root: Path, tmp_path: Path) -> None:
    loaded = load(root, tmp_path, data_dir=str(tmp_path / "deep"))
    first, second = build.secret_of(loaded), build.secret_of(loaded)
    path = tmp_path / "deep/secret"

    assert first == second
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_workers_that_start_together_agree_on_the_secret(root: Path, tmp_path: Path) -> None:
    problems: list[Exception] = []
    for attempt in range(20):
        loaded = load(root, tmp_path, data_dir=str(tmp_path / f"{attempt}"))
        together, secrets = threading.Barrier(6), set[bytes]()

        def start(
            loaded: Settings = loaded,
            together: threading.Barrier = together,
            secrets: set[bytes] = secrets,
        ) -> None:
            together.wait()
            try:
                secrets.add(build.secret_of(loaded))
            except Exception as error:
                problems.append(error)

        workers = [threading.Thread(target=start) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        assert len(secrets) == 1
    assert problems == []


def test_a_secret_of_the_config_is_taken_and_no_file_made(root: Path, tmp_path: Path) -> None:
    loaded = load(root, tmp_path, secret="sixteen letters!", data_dir=str(tmp_path / "none"))

    assert build.secret_of(loaded) == b"sixteen letters!"
    assert not (tmp_path / "none").exists()


def test_a_short_secret_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="under 16 characters; use: openssl rand -hex 32"):
        build.secret_of(load(root, tmp_path, secret="too short"))


@pytest.mark.parametrize("content", ["", "short\n"])
def test_a_damaged_secret_file_is_named(root: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)

    with pytest.raises(ConfigError, match="secret' is damaged; remove it"):
        build.secret_of(load(root, tmp_path))


def test_a_folder_that_cannot_be_used_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder/secret").mkdir(parents=True)
    for data_dir in ("file", "file/below", "folder"):
        loaded = load(root, tmp_path, data_dir=str(tmp_path / data_dir))

        with pytest.raises(ConfigError, match=str(tmp_path / data_dir)):
            build.secret_of(loaded)


def test_keys_and_store_are_in_the_data_folder(root: Path, tmp_path: Path) -> None:
    loaded = load(root, tmp_path, store="sqlite:///state.db", identity={"keys": "own.json"})
    service = build.build_service(loaded, lambda: 1000.0)
    service.close()

    assert build.keys_path(loaded) == tmp_path / "own.json"
    assert (tmp_path / "state.db").is_file()


def test_a_service_is_ready_once_its_models_are_loaded(root: Path, tmp_path: Path) -> None:
    service = build.build_service(load(root, tmp_path), lambda: 1000.0)
    assert not service.ready
    build.load_model(service, "mnist")

    assert service.ready
    assert service.gateways["mnist"].pipeline.victim.classes == 10
    service.close()


@pytest.mark.parametrize(("every_s", "patrols"), [(60, 1), (None, 0)])
def test_a_patrol_goes_round_beside_a_model_until_the_end(
    root: Path, tmp_path: Path, every_s: float | None, patrols: int
) -> None:
    raw = config(root, tmp_path)
    raw["models"]["mnist"]["campaigns"] = {"every_s": every_s}
    service = build.build_service(Settings.model_validate(raw), lambda: 1000.0)
    build.load_model(service, "mnist")
    during = [thread.name for thread in threading.enumerate()].count("patrol")
    service.close()
    after = [thread.name for thread in threading.enumerate()].count("patrol")

    assert during - after == patrols == len(service.patrols)


@pytest.mark.redis
def test_while_the_store_is_away_a_service_does_as_the_config_says(
    root: Path, tmp_path: Path
) -> None:
    with redis_server(tmp_path / "redis") as server:
        url = server.url + "?socket_timeout=0.2"
        closed, lenient = (
            build.build_service(load(root, tmp_path, store=url, store_away=away), lambda: 1000.0)
            for away in ("closed", "serve")
        )
        server.kill()
        with pytest.raises(StoreAway):
            closed.store.load_many(["a"], 1000.0)
        entry = lenient.store.load_many(["a"], 1000.0)["a"]
        scrape = generate_latest(lenient.metrics.registry)
        for service in (closed, lenient):
            service.close()

    assert entry.memory == {}
    assert b"mantlet_store_away 1.0" in scrape


def test_events_are_written_counted_and_posted_to_whom_the_config_says(
    root: Path, tmp_path: Path
) -> None:
    hook = {"url": "http://127.0.0.1:9/", "secret": "s" * 16, "attempts": 1, "kinds": ["unban"]}
    loaded = load(root, tmp_path, events="sqlite:///deep/events.db", webhook=hook)
    service = build.build_service(loaded, lambda: 1000.0)
    with structlog.testing.capture_logs():
        service.events.record(Unban(client="c", name="acme", tier="default", by="operator"))
        service.close()
    scrape = generate_latest(service.metrics.registry)

    assert service.events.verify().events == 1
    assert (tmp_path / "deep/events.db").is_file()
    assert b'mantlet_events_total{kind="unban"} 1.0' in scrape
    assert b"mantlet_webhook_failures_total 1.0" in scrape


def test_event_files_are_as_large_as_the_config_says(root: Path, tmp_path: Path) -> None:
    service = build.build_service(load(root, tmp_path, events_file_mib=1), lambda: 1000.0)
    events = [Unban(client="c", name="n" * 200, tier="default", by="operator")] * 2500
    service.events.write(*events)
    service.events.write(events[0])
    service.close()

    kept = tmp_path / f"events.jsonl.{len(events)}"
    assert kept.stat().st_size > 1 << 20
    assert (tmp_path / "events.jsonl").stat().st_size < 1000
    assert service.events.verify().problems == ()


def test_an_event_log_of_another_secret_stops_the_start(root: Path, tmp_path: Path) -> None:
    for secret in ("a" * 16, "b" * 16):
        loaded = load(root, tmp_path, secret=secret)
        if secret[0] == "a":
            service = build.build_service(loaded, lambda: 1000.0)
            service.events.record(Unban(client="c", name="acme", tier="default", by="operator"))
            service.close()

    with pytest.raises(ConfigError, match="restore the secret, or move both away"):
        build.build_service(loaded, lambda: 1000.0)


def test_damaged_keys_stop_the_start(root: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")

    with pytest.raises(ConfigError, match="keys file"):
        build.build_service(load(root, tmp_path), lambda: 1000.0)


def test_the_shipped_model_enforces_with_its_own_calibration(root: Path, tmp_path: Path) -> None:
    loaded = load(root, tmp_path)
    pipeline = build.load_pipeline("mnist", loaded.models["mnist"], loaded)

    assert "coverage" in {d.name for d in pipeline.detectors if not d.enforces}
    assert {d.name for d in pipeline.fold.tested} == {"foreign", "similarity"}
    assert [d.name for d in pipeline.defenses] == ["reverse_sigmoid", "label_only", "rounding"]
    pipeline.victim.close()


def other_weights(root: Path, tmp_path: Path) -> Path:
    learned, _ = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    calibration.write(tmp_path / "other.safetensors", learned, "0" * 64)
    return tmp_path / "other.safetensors"


@pytest.mark.parametrize("kind", ["other weights", "none"])
def test_without_a_calibration_of_its_own_a_detector_only_observes(
    root: Path, tmp_path: Path, kind: str
) -> None:
    raw = config(root, tmp_path)
    path = other_weights(root, tmp_path) if kind == "other weights" else None
    raw["models"]["mnist"]["calibration"] = str(path) if path else None
    loaded = settings.load(write_config(tmp_path / "g.yaml", raw))
    with structlog.testing.capture_logs() as logged:
        pipeline = build.load_pipeline("mnist", loaded.models["mnist"], loaded)
    events = [entry["event"] for entry in logged if entry["log_level"] == "warning"]
    outcome = pipeline.run(query(rows(60, shape=(1, 28, 28))), {})

    assert [d.name for d in pipeline.detectors if d.enforces] == ["rate"]
    assert "detector_observes_only" in events
    assert ("calibration_of_other_weights" in events) is (kind == "other weights")
    assert not outcome.decision.levels.any(), "noise from a client, and nothing happens to it"
    pipeline.victim.close()


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta0"])
def test_a_device_that_is_not_there_is_named(root: Path, tmp_path: Path, device: str) -> None:
    loaded = load(root, tmp_path, device=device)

    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used: .*; try cpu"):
        build.load_pipeline("mnist", loaded.models["mnist"], loaded)


def test_defenses_get_the_secret_and_the_same_secret_after_a_restart(
    root: Path, tmp_path: Path
) -> None:
    raw = config(root, tmp_path)
    raw["models"]["mnist"].update(defenses=["gaussian_noise"], policy=[], detectors=[])
    asked = query(rows(3, shape=(1, 28, 28)))
    answers = []
    for secret in (None, None, "another secret, longer than sixteen"):
        raw["secret"] = secret
        loaded = settings.load(write_config(tmp_path / "g.yaml", raw))
        pipeline = build.load_pipeline("mnist", loaded.models["mnist"], loaded)
        answers.append(pipeline.run(asked, {}).released.values)
        pipeline.victim.close()

    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2], atol=1e-3)


def test_a_surrogate_that_does_not_fit_the_victim_stops_the_start(
    root: Path, tmp_path: Path
) -> None:
    raw = config(root, tmp_path)
    (tmp_path / "s.safetensors").write_bytes(
        Path(raw["models"]["mnist"]["victim"]["weights"]).read_bytes()
    )
    fitting = {"type": "mad", "architecture": "lenet", "weights": "s.safetensors"}
    other = {"type": "gradient_redirection", "architecture": "resnet"}
    raw["models"]["mnist"].update(defenses=[fitting], policy=[], detectors=[])
    loaded = settings.load(write_config(tmp_path / "g.yaml", raw))
    build.load_pipeline("mnist", loaded.models["mnist"], loaded).victim.close()
    raw["models"]["mnist"]["defenses"] = [fitting, other]
    loaded = settings.load(write_config(tmp_path / "g.yaml", raw))

    with pytest.raises(ConfigError, match=r"'resnet' does not fit rows of shape"):
        build.load_pipeline("mnist", loaded.models["mnist"], loaded)
    loaded.models["mnist"].victim.close()


def test_labels_are_released_where_the_config_says_so(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    raw["models"]["mnist"]["answer"] = "labels"
    loaded = settings.load(write_config(tmp_path / "g.yaml", raw))
    pipeline = build.load_pipeline("mnist", loaded.models["mnist"], loaded)

    assert pipeline.run(query(rows(2, shape=(1, 28, 28))), {}).released.values.shape == (2,)
    pipeline.victim.close()


def test_missing_weights_are_an_error_of_the_tree(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    raw["models"]["mnist"]["victim"]["weights"] = str(tmp_path / "none.safetensors")
    loaded = settings.load(write_config(tmp_path / "g.yaml", raw))

    with pytest.raises(WeightsError, match="no such file") as caught:
        build.load_pipeline("mnist", loaded.models["mnist"], loaded)
    assert isinstance(caught.value, MantletError)


@pytest.mark.parametrize(
    ("settings_file", "model", "detector", "fitting"),
    [
        ("default.yaml", "mnist", "latents", "foreign, prada, rate"),
        ("superres.yaml", "superres", "prada", "foreign, rate, similarity"),
    ],
)
def test_a_detector_of_other_models_stops_the_start_and_names_those_that_fit(
    root: Path, tmp_path: Path, settings_file: str, model: str, detector: str, fitting: str
) -> None:
    override = [f"models.{model}.detectors=[{{type: {detector}}}]", f"data_dir={tmp_path}"]
    override += [f"models.{model}.policy=[]", f"models.{model}.calibration=null"]
    loaded = settings.load(root / "configs/gateway" / settings_file, override)

    with pytest.raises(ConfigError, match=f"detector '{detector}' cannot watch") as caught:
        build.load_pipeline(model, loaded.models[model], loaded)
    assert all(name in str(caught.value).partition("take of")[2] for name in fitting.split(", "))
    assert detector not in str(caught.value).partition("take of")[2]


def explained(root: Path, tmp_path: Path, victim: dict[str, Any], **model: Any) -> Settings:
    return load(root, tmp_path, models={"m": {"victim": victim, "explain": {}} | model})


def torch_victim(root: Path) -> dict[str, Any]:
    weights = root / "configs/models/mnist-lenet.safetensors"
    return {"type": "torch", "weights": str(weights), "architecture": "lenet"}


def test_a_model_explains_where_the_config_says_so(root: Path, tmp_path: Path) -> None:
    wanted = {"defenses": [{"type": "explanation_display"}, {"type": "rounding"}]}
    loaded = explained(root, tmp_path, torch_victim(root), **wanted)
    pipeline = build.load_pipeline("m", loaded.models["m"], loaded)
    asked = query(rows(2, shape=(1, 28, 28)))
    assert pipeline.explaining is not None
    maps = pipeline.explain(asked, pipeline.explaining.ask(2), {}).maps(0, 2)

    assert maps is not None
    assert float(maps.values.amin()) >= 0.0
    assert float(maps.values.amax()) == 1.0


DISPLAY = {"defenses": [{"type": "explanation_display"}, {"type": "rounding"}]}
FULL, SHOWN = {"name": "full"}, {"name": "shown", "defenses": ["explanation_display"]}


@pytest.mark.parametrize(
    ("parts", "level"),
    [
        ({}, "all"),
        ({"defenses": [{"type": "rounding"}]}, "all"),
        (DISPLAY | {"policy": [FULL, SHOWN | {"tiers": ["default"]}]}, "full"),
        (DISPLAY | {"policy": [{"name": "full", "defenses": ["rounding"]}]}, "full"),
        (DISPLAY, None),
        (DISPLAY | {"policy": [SHOWN, FULL | {"tiers": ["house"]}]}, None),
        (DISPLAY | {"policy": [{"name": "none", "explanations": False}]}, None),
        ({"explain": None}, None),
    ],
)
def test_maps_that_leave_the_first_level_as_they_are_are_warned_of(
    root: Path, tmp_path: Path, parts: dict[str, Any], level: str | None
) -> None:
    raw = {"tiers": {"house": {}}, "models": {"m": {"victim": torch_victim(root), "explain": {}}}}
    raw["models"]["m"] |= parts
    loaded = load(root, tmp_path, **raw)
    with structlog.testing.capture_logs() as logged:
        build.load_pipeline("m", loaded.models["m"], loaded)
    warned = [entry for entry in logged if entry["event"] == "explanations_undefended"]

    assert [entry["level"] for entry in warned] == ([level] if level else [])
    assert all("explanation_display at the first level" in entry["remedy"] for entry in warned)


def test_an_empty_section_explains_the_likeliest_class_alone(root: Path, tmp_path: Path) -> None:
    loaded = explained(root, tmp_path, torch_victim(root))
    pipeline = build.load_pipeline("m", loaded.models["m"], loaded)
    assert pipeline.explaining is not None

    with pytest.raises(RequestError, match="leave 'class' out"):
        pipeline.explaining.read(1, {"class": 1})


def test_a_defense_of_explanations_needs_a_model_that_explains(root: Path, tmp_path: Path) -> None:
    wanted = {"defenses": ["explanation_display"], "explain": None}
    loaded = explained(root, tmp_path, torch_victim(root), **wanted)

    with pytest.raises(ConfigError, match="'explanation_display' is for attributions"):
        build.load_pipeline("m", loaded.models["m"], loaded)


def test_an_onnx_file_shows_no_gradients_and_is_refused_at_load(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "linear.onnx"
    file.write_bytes(linear())
    loaded = explained(root, tmp_path, {"type": "onnx", "weights": str(file)})

    with pytest.raises(ConfigError, match=r"of type onnx shows no gradients.*remove 'explain'"):
        build.load_pipeline("m", loaded.models["m"], loaded)


def test_a_network_that_makes_pictures_is_not_explained(root: Path, tmp_path: Path) -> None:
    weights = root / "configs/models/superres-x2.safetensors"
    victim = {
        "type": "torch",
        "weights": str(weights),
        "architecture": "superres",
        "settings": {"scale": 2, "channels": 3, "width": 32, "depth": 2},
    }
    loaded = explained(root, tmp_path, victim)

    with pytest.raises(ConfigError, match="is there to translate, and classifiers alone"):
        build.load_pipeline("m", loaded.models["m"], loaded)


class Diary(RememberingDefense):
    """Remembers explanations, or would."""

    type: Literal["diary"] = "diary"
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    def answer(self, state: State, rows: torch.Tensor) -> tuple[State, torch.Tensor]:
        return state, rows


def test_a_defense_that_remembers_is_none_of_explanations(root: Path, tmp_path: Path) -> None:
    loaded = explained(root, tmp_path, torch_victim(root))
    model = loaded.models["m"].model_copy(update={"defenses": (Diary(),)})

    with pytest.raises(ConfigError, match="'diary' remembers what it answered"):
        build.load_pipeline("m", model, loaded)
