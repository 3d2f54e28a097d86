"""Every mistake in a config is named: file, field, value, remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mantlet.errors import ConfigError
from serving import settings
from serving.settings import Model, Settings
from tests.helpers import config, write_config

Raw = dict[str, Any]
Change = Callable[[Raw], object]


def model(raw: Raw) -> Raw:
    """The one model of the embedded default."""
    only: Raw = raw["models"]["mnist"]
    return only


def append(kind: str, plugin: object) -> Change:
    return lambda raw: model(raw)[kind].append(plugin)


def level(index: int, **changes: object) -> Change:
    return lambda raw: model(raw)["policy"][index].update(changes)


MISTAKES: dict[str, tuple[Change, str, str]] = {
    # what: (change, field and value, remedy)
    "unknown section": (lambda r: r.update(lissten={}), "lissten", "unknown setting; remove it"),
    "unknown setting": (
        lambda r: r["listen"].update(prot=1),
        "listen.prot = 1",
        "unknown setting; remove it or mend its spelling",
    ),
    "unknown detector": (
        append("detectors", {"type": "foregn"}),
        "models.mnist.detectors.5",
        "no detector of type 'foregn' is installed; did you mean 'foreign'?",
    ),
    "unknown defense": (
        append("defenses", "roundng"),
        "models.mnist.defenses.3 = 'roundng'",
        "did you mean 'rounding'?",
    ),
    "unknown victim": (
        lambda r: model(r)["victim"].update(type="torh"),
        "models.mnist.victim",
        "no victim of type 'torh' is installed; did you mean 'torch'?",
    ),
    "no type": (
        append("defenses", {"decimals": 3}),
        "models.mnist.defenses.3",
        "a defense needs a 'type'; known: ",
    ),
    "a list for a plug-in": (
        append("defenses", ["rounding"]),
        "models.mnist.defenses.3",
        "a defense needs a 'type'",
    ),
    "a type that is no name": (
        append("detectors", {"type": ["rate"]}),
        "models.mnist.detectors.5",
        "a detector needs a 'type'",
    ),
    "plug-in out of bounds": (
        append("defenses", {"type": "rounding", "name": "second", "decimals": 99}),
        "models.mnist.defenses.3.decimals = 99",
        "less than or equal to 6",
    ),
    "plug-in with a typo": (
        append("defenses", {"type": "rounding", "name": "second", "decimal": 2}),
        "models.mnist.defenses.3.decimal = 2",
        "unknown setting",
    ),
    "missing setting": (
        lambda r: model(r)["victim"].pop("architecture"),
        "models.mnist.victim.architecture",
        "is missing; add it",
    ),
    "half a normalisation": (
        lambda r: model(r)["victim"].update(mean=[0.5]),
        "models.mnist.victim",
        "mean has 1 numbers, std 0; give both",
    ),
    "bad rate": (
        lambda r: r["tiers"].update(paid={"rows": "lots"}),
        "tiers.paid.rows = 'lots'",
        "is no rate; write an amount per time, such as '100/second'",
    ),
    "rate without a time": (
        lambda r: r["tiers"]["default"].update(requests=100),
        "tiers.default.requests = 100",
        "'100' is no rate; write an amount per time",
    ),
    "bad overall rate": (
        lambda r: r.update(overall={"requests": "1/fortnight"}),
        "overall.requests = '1/fortnight'",
        "is no rate",
    ),
    "no default tier": (
        lambda r: r.update(tiers={"paid": {}}),
        "(whole file)",
        "tiers ['paid'] lack 'default'; add it, it may be empty",
    ),
    "a defense twice": (
        append("defenses", {"type": "rounding"}),
        "models.mnist",
        "defense 'rounding' is there twice; give each its own 'name'",
    ),
    "a detector twice": (
        append("detectors", "rate"),
        "models.mnist",
        "detector 'rate' is there twice",
    ),
    "a level twice": (level(1, name="normal"), "models.mnist", "policy level 'normal' is there"),
    "a detector named as the policy": (
        append("detectors", {"type": "rate", "name": "policy"}),
        "models.mnist",
        "detector 'policy': this name is taken",
    ),
    "a detector named as what a defense remembers": (
        append("detectors", {"type": "rate", "name": "answered by modelguard_s"}),
        "models.mnist",
        "detector 'answered by modelguard_s': this name is taken",
    ),
    "policy asks for a defense that is not there": (
        level(1, defenses=["reverse_sigmoi"]),
        "models.mnist",
        "'suspected' asks for defense 'reverse_sigmoi', which is not in 'defenses'; did you mean"
        " 'reverse_sigmoid'?",
    ),
    "policy without any defense": (
        lambda r: model(r).update(defenses=[]),
        "models.mnist",
        "asks for defense 'rounding', which is not in 'defenses'; add it there",
    ),
    "levels not rising": (
        lambda r: model(r)["policy"].insert(2, {"name": "late", "suspicion": 0.2}),
        "models.mnist",
        "policy level 'suspected' can never count: 'late', which comes later, holds whenever it does; give"
        " each its own conditions, in rising order",
    ),
    "a suspicion that everybody has": (
        level(1, suspicion=0.0),
        "models.mnist.policy.1.suspicion = 0.0",
        "greater than 0",
    ),
    "nobody's first level": (
        level(0, suspicion=0.1),
        "models.mnist",
        "the first policy level 'normal' must hold for everybody: no condition, no tiers",
    ),
    "an alarm at first": (
        lambda r: model(r).update(policy=[{"name": "only", "alarm": True}]),
        "models.mnist",
        "the first policy level 'only' must hold for everybody",
    ),
    "an alarm that a later level hides": (
        lambda r: model(r)["policy"].append({"name": "late", "suspicion": 0.9, "campaign": True}),
        "models.mnist",
        "policy level 'alarmed' can never count: 'late', which comes later",
    ),
    "a level that listens to nobody": (
        level(1, signals={"rat": 0.5}),
        "models.mnist",
        "'suspected' listens to detector 'rat', which is not in 'detectors'; did you mean 'rate'?",
    ),
    "a first level that denies": (
        level(0, deny_s=60),
        "models.mnist",
        "the first policy level 'normal' denies or delays everybody",
    ),
    "a refusal that is forgotten before it ends": (
        lambda r: (level(1, deny_s=2592000)(r), r.update(remember_s=3600)),
        "(whole file)",
        "models.mnist.policy: level 'suspected' has deny_s 2592000, and clients are forgotten after remember_s"
        " 3600; raise remember_s, or lower deny_s",
    ),
    "a level with a rate that is none": (
        level(1, requests="often"),
        "models.mnist.policy.1.requests = 'often'",
        "'often' is no rate; write an amount per time, such as '100/second'",
    ),
    "an alpha that accuses everybody": (
        lambda r: model(r).update(alpha=0.5),
        "models.mnist.alpha = 0.5",
        "less than 0.5",
    ),
    "an alpha of old": (
        lambda r: model(r)["detectors"].append({"type": "foreign", "name": "f", "alpha": 1e-6}),
        "models.mnist.detectors.5.alpha = 1e-06",
        "unknown setting",
    ),
    "level out of bounds": (
        level(1, suspicion=1.5),
        "models.mnist.policy.1.suspicion = 1.5",
        "less than or equal to 1",
    ),
    "workers without a shared store": (
        lambda r: r["listen"].update(workers=2),
        "(whole file)",
        "2 workers cannot share 'memory://': each would keep alarms and budgets of its own; set"
        " store: sqlite:///state.db or workers: 1",
    ),
    "one port for both": (
        lambda r: (r["listen"].update(port=9), r["admin"].update(port=9)),
        "(whole file)",
        "listen.port and admin.port are both 9; change one",
    ),
    "an admin port for everybody": (
        lambda r: r["admin"].update(host="0.0.0.0"),
        "(whole file)",
        "admin.host '0.0.0.0' can be reached from elsewhere; set admin.token",
    ),
    "an admin port for a name that only begins like loopback": (
        lambda r: r["admin"].update(host="127.example.org"),
        "(whole file)",
        "admin.host '127.example.org' can be reached from elsewhere; set admin.token",
    ),
    "a token that everybody knows": (
        lambda r: r["admin"].update(host="0.0.0.0", token=""),
        "admin.token",
        "is empty, which everybody knows; use: openssl rand -hex 32",
    ),
    "port out of range": (
        lambda r: r["listen"].update(port=70_000),
        "listen.port = 70000",
        "less than or equal to 65535",
    ),
    "no models": (lambda r: r.pop("models"), "models", "is missing; add it"),
    "empty models": (lambda r: r.update(models={}), "models", "is too short; it needs at least 1"),
    "a model name that is no path": (
        lambda r: r["models"].update({"a/b": model(r)}),
        "(whole file)",
        "model name 'a/b' does not fit into a path; use a-z, 0-9, - _ .",
    ),
    "a section without a body": (lambda r: r.update(listen=None), "listen", "valid dictionary"),
    "unknown level of the log": (
        lambda r: r.update(log_level="loud"),
        "log_level = 'loud'",
        "'debug', 'info', 'warning' or 'error'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_file_field_value_and_remedy(
    name: str, root: Path, tmp_path: Path
) -> None:
    change, field, remedy = MISTAKES[name]
    raw = config(root, tmp_path)
    change(raw)
    path = write_config(tmp_path / "gateway.yaml", raw)

    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    (line,) = [line for line in str(caught.value).splitlines() if f": {field}: " in line]
    assert line.startswith(f"{path}: {field}: ")
    assert remedy in line
    assert "pydantic" not in str(caught.value)


def test_all_mistakes_are_named_at_once(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path, log_level="loud")
    raw["listen"]["port"] = -1
    append("defenses", "roundng")(raw)

    with pytest.raises(ConfigError) as caught:
        settings.load(write_config(tmp_path / "gateway.yaml", raw))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("raw", [{"secret": 12345678}, {"admin": {"port": 0, "token": 12345678}}])
def test_a_secret_is_not_shown_in_a_mistake(raw: Raw, root: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "gateway.yaml", config(root, tmp_path, **raw))

    with pytest.raises(ConfigError, match="should be a valid string") as caught:
        settings.load(path)
    assert "12345678" not in str(caught.value)


def test_a_secret_is_not_shown_with_the_settings(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path, secret="a very long secret", admin={"token": "a token"})
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", raw))

    assert "a very long secret" not in repr(loaded)
    assert "a token" not in repr(loaded)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"models: [", "is not YAML"),
        (b"", "holds NoneType; it must map settings to values"),
        (b"- models", "holds list; it must map"),
        (b"models", "holds str; it must map"),
        (b"\xff\xfe\xff", "cannot be read"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"config '{path}' {words}"):
        settings.load(path)


def test_a_setting_that_is_written_twice_is_refused_and_not_lost(tmp_path: Path) -> None:
    """YAML itself takes the last: a second list of detectors would turn the first ones off."""
    path = tmp_path / "gateway.yaml"
    path.write_text("models:\n  digits:\n    detectors: [rate]\n    detectors: []\n")

    with pytest.raises(
        ConfigError, match=r"'detectors' is written twice, in line 3 and in line 4; keep one"
    ):
        settings.load(path)


def test_a_section_that_is_merged_into_another_is_written_once(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    path = write_config(tmp_path / "gateway.yaml", raw | {"tiers": {}})
    text = path.read_text().replace("tiers: {}\n", "")
    tiers = "tiers:\n  default: &d {rows: 5/day}\n  free: *d\n  paid: {<<: *d, rows: 9/day}\n"
    path.write_text(text + tiers)

    loaded = settings.load(path)

    assert str(loaded.tiers["paid"].rows) != str(loaded.tiers["default"].rows)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"models": {}}, "models: is too short; it needs at least 1"),
        ({"data_dir": 5}, "data_dir = 5: is no path; write a path as text"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_file(
    root: Path, tmp_path: Path, section: dict[str, object], words: str
) -> None:
    raw = config(root, tmp_path) | section

    with pytest.raises(ConfigError, match=words):
        settings.load(write_config(tmp_path / "gateway.yaml", raw))


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; give the path of a YAML file"):
        settings.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings.load(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("listen.port", "write it as field=value, such as listen.port=9000"),
        ("listen.port=[1", "'[1' is not YAML"),
        ("store.file=x", "'store' is no section of the config"),
        ("models.mnist.policy.0=x", "'policy' is no section"),
        ("listen.prot=1", "listen.prot = 1: unknown setting"),
        ("listen.port=high", "listen.port = 'high': Input should be a valid integer"),
        ("=3", "unknown setting"),
    ],
)
def test_a_wrong_override_is_named(override: str, words: str, root: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "gateway.yaml", config(root, tmp_path))

    with pytest.raises(ConfigError) as caught:
        settings.load(path, [override])
    assert words in str(caught.value)


def test_overrides_are_yaml_and_make_sections_as_needed(root: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "gateway.yaml", config(root, tmp_path))
    loaded = settings.load(
        path,
        ["listen.port=9000", "overall.rows=5/day", "identity.deny=[ann, bob]", "secret=a=b=c"],
    )

    assert loaded.listen.port == 9000
    assert loaded.overall.rows == "5/day"
    assert loaded.identity.deny == ("ann", "bob")
    assert loaded.secret is not None
    assert loaded.secret.get_secret_value() == "a=b=c"


def test_every_config_that_ships_loads(root: Path) -> None:
    paths = sorted((root / "configs/gateway").glob("*.yaml"))

    assert paths
    for path in paths:
        assert settings.load(path).models


def test_paths_are_relative_to_the_file(root: Path, tmp_path: Path) -> None:
    loaded = settings.load(root / "configs/gateway/default.yaml").models["mnist"]
    raw = config(root, tmp_path)
    victim = {"type": "torch", "weights": "w.safetensors", "architecture": "lenet"}
    model(raw).update(victim=victim, calibration="../c.safetensors", example="~/digit.png")
    other = settings.load(write_config(tmp_path / "gateway.yaml", raw)).models["mnist"]

    assert loaded.example is not None
    assert loaded.example.is_file()
    assert other.victim.model_dump()["weights"] == tmp_path / "w.safetensors"
    assert other.calibration == tmp_path / "../c.safetensors"
    assert other.example == Path("~/digit.png").expanduser()


def test_a_plugin_may_be_written_as_its_name_alone(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    model(raw).update(detectors=["rate"], defenses=["label_only"], policy=[])
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", raw)).models["mnist"]

    assert [d.name for d in loaded.detectors] == ["rate"]
    assert [d.name for d in loaded.defenses] == ["label_only"]


def test_two_of_a_kind_live_side_by_side_under_names_of_their_own(
    root: Path, tmp_path: Path
) -> None:
    raw = config(root, tmp_path)
    model(raw)["detectors"] = ["rate", {"type": "rate", "name": "daily", "window_s": 86400}]
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", raw)).models["mnist"]

    assert [d.name for d in loaded.detectors] == ["rate", "daily"]


def test_plugins_can_be_given_as_objects(root: Path, tmp_path: Path) -> None:
    """As the bench does, which needs no file."""
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", config(root, tmp_path)))
    parts = loaded.models["mnist"]
    again = Model(victim=parts.victim, detectors=parts.detectors, defenses=parts.defenses)

    assert again.defenses[0] is parts.defenses[0]
    assert Settings(models={"mnist": again}).listen.port == 8080


def test_settings_cannot_be_changed(root: Path) -> None:
    loaded = settings.load(root / "configs/gateway/default.yaml")

    with pytest.raises(ValueError, match="frozen"):
        loaded.listen.port = 1  # type: ignore[misc]  # that is the test


@pytest.mark.parametrize(
    ("tier", "words"), [("paid", "did you mean 'paid2'"), ("x", "known: default, free, paid2")]
)
def test_an_unknown_tier_is_named(tier: str, words: str, root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path, tiers={"default": {}, "paid2": {}})
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", raw))
    settings.require_tier(loaded, "paid2")

    with pytest.raises(ConfigError, match=f"tier '{tier}' is unknown; {words}"):
        settings.require_tier(loaded, tier)


def test_files_of_detectors_are_relative_to_the_config_file(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    model = {
        "victim": {"type": "torch", "weights": "v.safetensors", "architecture": "lenet"},
        "detectors": [
            {"type": "foreign", "classifier": "f.safetensors"},
            {"type": "coverage", "curve": "/elsewhere/c.json"},
        ],
    }
    path = write_config(folder / "gateway.yaml", {"models": {"m": model}})
    foreign, coverage = (d.model_dump() for d in settings.load(path).models["m"].detectors)

    assert foreign["classifier"] == folder / "f.safetensors"
    assert coverage["curve"] == Path("/elsewhere/c.json")
