"""The dry run: what another policy would have done, from the log that a gateway really wrote."""

from pathlib import Path

import pytest
import yaml

from mantlet.errors import ConfigError, RequestError
from serving.events.kinds import Standing, Unban
from serving.policy import Level
from serving.replay import Treated, replay
from serving.service import Service
from tests.helpers import bright
from tests.serving.inprocess import ROOT, load, service
from tests.serving.test_oversight import ask

SHIPPED = ROOT / "configs/gateway/default.yaml"


def logged(folder: Path, events: str = "jsonl:///events.jsonl") -> Path:
    """The log of a gateway at which a thief, a suspect and an honest client asked."""
    ready: Service = service(folder, identity={"open": False}, events=events)
    load(ready, detectors=[bright()], levels=(Level(name="normal"), Level(name="late", alarm=True)))
    for name, shade, rows in (("honest", 0.05, 9), ("suspect", 1.0, 5), ("thief", 1.0, 1)):
        for _ in range(12 if name == "thief" else 1):
            ask(ready, name, shade, rows)
    ready.close()
    return folder / events.rpartition("/")[2]


def policy(folder: Path, text: str) -> Path:
    path = folder / "new.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def by_name(treated: list[Treated]) -> dict[str, Treated]:
    return {one.name: one for one in treated}


@pytest.mark.parametrize("events", ["jsonl:///events.jsonl", "sqlite:///events.db"])
def test_a_stricter_policy_is_told_to_treat_the_suspect_too(tmp_path: Path, events: str) -> None:
    strict = "policy:\n- {name: normal}\n- {name: early, suspicion: 0.3}\n"
    found = by_name(replay(logged(tmp_path, events), policy(tmp_path, strict)))

    assert found["suspect"].would == ["early"]
    assert found["suspect"].differs
    assert found["thief"].was == ["normal", "late"]
    assert found["thief"].would == ["normal", "early"]


def test_the_policy_that_was_in_force_changes_nothing(tmp_path: Path) -> None:
    same = "policy:\n- {name: normal}\n- {name: late, alarm: true}\n"
    found = replay(logged(tmp_path), policy(tmp_path, same))

    assert [one.name for one in found if one.differs] == []


def test_refusals_are_told_with_their_end(tmp_path: Path) -> None:
    strict = "policy:\n- {name: normal}\n- {name: out, alarm: true, deny_s: 60}\n"
    found = by_name(replay(logged(tmp_path), policy(tmp_path, strict)))

    assert found["thief"].would_deny_until == 1060.0
    assert found["suspect"].would_deny_until is None


def test_those_who_would_come_highest_are_listed_first(tmp_path: Path) -> None:
    strict = "policy:\n- {name: normal}\n- {name: out, alarm: true}\n"
    found = replay(logged(tmp_path), policy(tmp_path, strict))

    assert found[0].name == "thief"


def test_who_never_was_suspicious_is_not_in_the_log(tmp_path: Path) -> None:
    found = replay(logged(tmp_path), policy(tmp_path, "policy:\n- {name: normal}\n"))

    assert "honest" not in by_name(found)


def test_a_whole_config_may_be_given_as_the_policy(tmp_path: Path) -> None:
    found = by_name(replay(logged(tmp_path), SHIPPED))

    assert found["thief"].would[-1] == "alarmed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policy: [", "cannot be read"),
        ("levels: []", "give a gateway's config"),
        ("policy:\n- {name: a, suspicion: 2}\n", "0.suspicion"),
        ("policy:\n- {name: a, alarm: true}\n", "must hold for everybody"),
        ("policy:\n- {name: a}\n- {name: a, alarm: true}\n", "there twice"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replay(logged(tmp_path), policy(tmp_path, text))


def test_a_log_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        replay(tmp_path / "none.jsonl", SHIPPED)


def test_a_log_of_which_all_was_put_away_is_read_in_its_order(tmp_path: Path) -> None:
    strict = policy(tmp_path, "policy:\n- {name: normal}\n- {name: early, suspicion: 0.3}\n")
    log = logged(tmp_path)
    whole, lines = replay(log, strict), log.read_bytes().splitlines(keepends=True)
    for first, last in ((0, 1), (1, len(lines))):
        log.with_name(f"{log.name}.{last}").write_bytes(b"".join(lines[first:last]))
    log.unlink()

    assert len(lines) > 2
    assert replay(log, strict) == whole


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    log = logged(tmp_path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], b"{nonsense\n", *lines[2:]]))
    with pytest.raises(ConfigError, match="record 2 cannot be read"):
        replay(log, SHIPPED)


def test_events_that_judge_nobody_are_passed_over(tmp_path: Path) -> None:
    ready = service(tmp_path)
    ready.events.record(Unban(client="c", name="n", tier="t", by="me"))
    ready.events.close()

    assert replay(tmp_path / "events.jsonl", SHIPPED) == []


def test_what_was_only_decided_is_not_told_as_done(tmp_path: Path) -> None:
    """In shadow mode everybody was treated as at first; the other policy would be in force."""
    ready = service(tmp_path, identity={"open": False})
    levels = (Level(name="normal"), Level(name="late", alarm=True))
    load(ready, detectors=[bright()], levels=levels, shadow=True)
    ask(ready, "thief", 1.0, 16)
    ready.close()
    same = "policy:\n- {name: normal}\n- {name: late, alarm: true}\n"
    [thief] = replay(tmp_path / "events.jsonl", policy(tmp_path, same))

    assert thief.was == ["(as at first)"]
    assert thief.would == ["late"]


def test_clients_on_the_allow_list_are_replayed_as_such(tmp_path: Path) -> None:
    ready = service(tmp_path, identity={"open": False, "allow": ["thief"]})
    load(ready, detectors=[bright()], levels=(Level(name="normal"), Level(name="late", alarm=True)))
    ask(ready, "thief", 1.0, 16)
    ready.close()
    strict = "policy:\n- {name: normal}\n- {name: out, alarm: true, deny_s: 60}\n"
    [thief] = replay(tmp_path / "events.jsonl", policy(tmp_path, strict))

    assert thief.would == ["normal"]
    assert thief.would_deny_until is None


def test_the_refusals_that_were_change_nothing(tmp_path: Path) -> None:
    ready = service(tmp_path, identity={"open": False})
    levels = (Level(name="normal"), Level(name="out", alarm=True, deny_s=60))
    load(ready, detectors=[bright()], levels=levels)
    with pytest.raises(RequestError):
        ask(ready, "thief", 1.0, 16)
    ready.close()
    same = "policy:\n- {name: normal}\n- {name: out, alarm: true, deny_s: 60}\n"
    [thief] = replay(tmp_path / "events.jsonl", policy(tmp_path, same))
    milder = "policy:\n- {name: normal}\n- {name: out, alarm: true}\n"
    [spared] = replay(tmp_path / "events.jsonl", policy(tmp_path, milder))

    assert thief.was_denied_until == thief.would_deny_until == 1060.0
    assert not thief.differs
    assert spared.differs


def test_an_agreement_is_sized_by_the_curve_of_the_config(tmp_path: Path) -> None:
    ready = service(tmp_path)
    about = {"client": "c", "name": "n", "tier": "free", "model": "mnist", "weights": ""}
    for rows in (10, 10_000):
        event = Standing(**about, rows=rows, suspicion=0.1, step=0.1, level="normal")
        ready.events.record(event)
    ready.events.close()
    [spent] = replay(tmp_path / "events.jsonl", SHIPPED)

    assert spent.would == ["normal", "spent"]


def test_a_detector_of_which_the_log_does_not_tell_is_refused(tmp_path: Path) -> None:
    mistyped = "policy:\n- {name: a}\n- {name: b, signals: {brigt: 0.5}}\n"
    with pytest.raises(
        ConfigError, match=r"'b' listens to detector 'brigt'.*did you mean 'bright'"
    ):
        replay(logged(tmp_path), policy(tmp_path, mistyped))


def test_an_agreement_without_a_curve_is_refused(tmp_path: Path) -> None:
    bare = "policy:\n- {name: a}\n- {name: b, agreement: 0.8}\n"
    with pytest.raises(ConfigError, match="level 'b' has an agreement"):
        replay(logged(tmp_path), policy(tmp_path, bare))


@pytest.mark.parametrize("allow", [["thief"], []])
def test_a_config_brings_its_own_allow_list(tmp_path: Path, allow: list[str]) -> None:
    log = logged(tmp_path)
    raw = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    raw["identity"]["allow"] = allow
    raw["models"]["mnist"]["policy"] = [{"name": "a"}, {"name": "b", "alarm": True}]
    raw["models"]["mnist"]["detectors"] = []
    found = by_name(replay(log, policy(tmp_path, yaml.safe_dump(raw))))

    assert found["thief"].would[-1] == ("a" if allow else "b")


@pytest.mark.parametrize("text", ["policy: []\n", "without"])
def test_without_levels_all_would_be_treated_alike(tmp_path: Path, text: str) -> None:
    log = logged(tmp_path)
    if text == "without":
        raw = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
        del raw["models"]["mnist"]["policy"]
        text = yaml.safe_dump(raw)
    found = by_name(replay(log, policy(tmp_path, text)))

    assert found["thief"].would == ["all"]


def test_an_unban_at_one_model_ends_no_refusal_at_another(tmp_path: Path) -> None:
    ready = service(tmp_path)
    about = {
        "client": "c",
        "name": "n",
        "tier": "default",
        "model": "mnist",
        "weights": "",
        "rows": 9,
    }
    for suspicion, model in ((1.0, "other"), (0.1, "mnist"), (0.1, None)):
        ready.events.record(Standing(**about, suspicion=suspicion, step=suspicion, level="normal"))
        ready.events.record(Unban(client="c", name="n", tier="default", by="me", model=model))
    ready.events.record(Standing(**about, suspicion=0.1, step=0.1, level="normal"))
    ready.events.close()
    held = "policy:\n- {name: a}\n- {name: b, suspicion: 0.9, hold_s: 60}\n"
    [one] = replay(tmp_path / "events.jsonl", policy(tmp_path, held))

    assert one.would == ["b", "a"]
