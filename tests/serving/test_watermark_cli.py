"""``mantlet watermark``: what it prints of marked and other pictures, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mantlet.data import Images
from serving import cli, settings
from serving.keys import KeyFile
from tests.helpers import config, write_config

SECRET = "the secret of the owner"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key without a gateway."""
    path = tmp_path / "key"
    path.write_text(SECRET)
    return path


@pytest.fixture
def pictures(digits: Images, tmp_path: Path) -> Path:
    """Forty digits."""
    path = tmp_path / "clean.npy"
    np.save(path, digits.x[:40])
    return path


@pytest.fixture
def gateway(root: Path, tmp_path: Path) -> Path:
    """A config with two models."""
    raw = config(root, tmp_path, secret=SECRET)
    raw["models"]["other"] = raw["models"]["mnist"]
    return write_config(tmp_path / "gateway.yaml", raw)


def mantlet(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command, run as the shell would, in this process."""
    monkeypatch.setattr(sys, "argv", ["mantlet", "watermark", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    said: dict[str, object] = json.loads(capsys.readouterr().out)
    return said


def test_what_was_marked_is_found_and_its_client_named(
    key: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "marked"
    assert mantlet(monkeypatch, "embed", pictures, "--to", to, "--client", "ann", "--key", key) == 0
    assert "40 pictures marked for 'ann'" in capsys.readouterr().out
    assert len(list(to.iterdir())) == 40
    assert mantlet(monkeypatch, "detect", to, "--key", key) == 0
    assert "carry the mark" in capsys.readouterr().out
    assert mantlet(monkeypatch, "detect", to, "--key", key, "--each", "--json") == 0
    found = told(capsys)
    assert found["found"] is True
    assert found["pictures"] == len(found["each"]) == 40  # type: ignore[arg-type]
    names = tmp_path / "names"
    names.write_text("\n".join(["bob", "ann", *map(str, range(100))]))
    assert mantlet(monkeypatch, "trace", to, "--key", key, "--clients", names, "--json") == 0
    ranked = told(capsys)["clients"]
    assert ranked[0]["client"] == "ann"  # type: ignore[index]
    assert ranked[0]["p"] < 1e-2 < ranked[1]["p"]  # type: ignore[index]


def test_clean_pictures_and_a_wrong_key_give_a_p_value(
    key: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to, wrong = tmp_path / "marked", tmp_path / "wrong"
    wrong.write_text("the secret of another")
    mantlet(monkeypatch, "embed", pictures, "--to", to, "--client", "ann", "--key", key)
    capsys.readouterr()
    for words in (("detect", pictures, "--key", key), ("detect", to, "--key", wrong)):
        assert mantlet(monkeypatch, *words) == 0
        assert "show no mark" in capsys.readouterr().out
    assert mantlet(monkeypatch, "detect", to, "--key", key, "--model", "other", "--json") == 0
    assert float(str(told(capsys)["p"])) > 1e-4


def test_the_gateways_config_names_key_model_and_clients(
    gateway: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "marked"
    about = ("--config", gateway, "--model", "mnist")
    loaded = settings.load(gateway, [])
    for client in ("ann", "bob"):
        KeyFile(loaded.data_dir / loaded.identity.keys).create(client, "default", 0.0)
    assert (
        mantlet(monkeypatch, "embed", pictures, "--to", to, "--client", "bob", *about, "--json")
        == 0
    )
    capsys.readouterr()
    assert mantlet(monkeypatch, "trace", to, *about) == 0
    said = capsys.readouterr().out
    assert "of 'mnist'" in said
    assert said.index("bob: ") < said.index("ann: ")
    assert "2 clients compared" in said


def test_a_learned_mark_is_found_where_the_config_has_one(
    root: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = config(root, tmp_path, secret=SECRET)
    weights = str(root / "configs/models/mnist-dcgan.safetensors")
    victim = {"type": "torch", "architecture": "dcgan", "weights": weights}
    raw["models"] = {"digits": {"victim": victim, "defenses": [{"type": "learned_watermark"}]}}
    about = ("--config", write_config(tmp_path / "learned.yaml", raw))
    to = tmp_path / "marked"
    names = ["--client", "bob", "--client", "ann"]
    mantlet(monkeypatch, "embed", pictures, "--to", to, "--client", "ann", *about)
    capsys.readouterr()
    assert mantlet(monkeypatch, "trace", to, *names, *about, "--json") == 0
    found = told(capsys)
    assert found["found"] is True
    assert found["clients"][0]["client"] == "ann"  # type: ignore[index]
    assert mantlet(monkeypatch, "detect", pictures, *about) == 0
    assert "show no mark" in capsys.readouterr().out
    assert mantlet(monkeypatch, "detect", to, "--scale", "2", *about) == 2
    assert "looked for at one scale" in capsys.readouterr().err


def test_crops_and_sizes_that_were_resized_are_sought(
    key: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--key", key, "--json", "--whole", "28x28", "--scale", "0.5", "--scale", "2")

    assert mantlet(monkeypatch, "detect", pictures, *words) == 0
    assert told(capsys)["found"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("detect", "{p}"), "give either --config CONFIG of the gateway, or --key FILE"),
        (("detect", "{p}", "--key", "{k}", "--config", "{k}"), "give either"),
        (("detect", "{p}", "--key", "{k}", "--whole", "big"), "write WIDTHxHEIGHT"),
        (("detect", "{p}", "--key", "{k}", "--scale", "0"), "from 0.1 to 10"),
        (("detect", "{k}", "--key", "{k}"), "no whole PNG or JPEG"),
        (("detect", "nowhere.png", "--key", "{k}"), "no such file or folder"),
        (("detect", "{p}", "--key", "{p}x"), "No such file"),
        (("detect", "{p}", "--key", "{k}", "--rows", "40:"), "none of those that are asked for"),
        (("embed", "{p}", "--to", "{k}", "--client", "ann", "--key", "{k}"), "cannot be written"),
        (("embed", "{p}", "--to", "{k}/a", "--client", "ann", "--key", "{k}"), "cannot be written"),
        (("trace", "{p}", "--key", "{k}"), "there are no clients to compare"),
        (("trace", "{p}", "--key", "{k}", "--clients", "nowhere"), "cannot be read"),
        (("detect", "{p}", "--config", "{g}"), "--model"),
        (("detect", "{p}", "--config", "{g}", "--model", "mnits"), "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...],
    said: str,
    key: Path,
    pictures: Path,
    gateway: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(p=pictures, k=key, g=gateway) for word in words]

    assert mantlet(monkeypatch, *given) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
