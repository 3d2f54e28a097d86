"""The command line: what it prints, where, and its exit codes. ``serve`` is tested in tests/e2e."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mantlet import __version__, architectures, weights
from mantlet.data import Images
from serving import calibration, cli
from serving.keys import KeyFile
from tests.helpers import config, write_config


@dataclass(frozen=True)
class Result:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Mantlet = Callable[..., Result]


@pytest.fixture
def mantlet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mantlet:
    """Runs a command as the shell would, in this process."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["mantlet", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def gateway(root: Path, tmp_path: Path) -> Path:
    """The config file of a gateway with tiers."""
    raw = config(root, tmp_path, tiers={"default": {}, "paid": {"rows": "5/day"}})
    return write_config(tmp_path / "gateway.yaml", raw)


def test_the_version_is_printed(mantlet: Mantlet) -> None:
    assert mantlet("--version") == Result(0, f"{__version__}\n", "")


def test_without_words_there_is_help(mantlet: Mantlet) -> None:
    result = mantlet()

    assert "serve" in result.out
    assert "calibrate" in result.out


@pytest.mark.parametrize(
    "words",
    [
        ("check", "/none.yaml"),
        ("serve", "/none.yaml"),
        ("keys", "list", "--config", "/none.yaml"),
        ("convert", "/none.pt", "/none.safetensors"),
        ("train", "/none.yaml", "--data", "/none.npz"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(
    mantlet: Mantlet, words: tuple[str, ...]
) -> None:
    result = mantlet(*words)

    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("mantlet: ")
    assert len(result.err.splitlines()) == 1
    assert "/none" in result.err


def test_an_unknown_command_is_exit_code_2(mantlet: Mantlet) -> None:
    assert mantlet("srve").code == 2


def test_brackets_in_a_mistake_are_printed_as_they_are(mantlet: Mantlet) -> None:
    """They are not the markup of the terminal library."""
    assert "[bold]x.yaml" in mantlet("check", "/none/[bold]x.yaml").err


def test_check_of_a_good_config_says_so(mantlet: Mantlet, gateway: Path) -> None:
    result = mantlet("check", gateway)

    assert (result.code, result.out) == (0, f"{gateway}: good, apart from the warnings: 1\n")
    assert result.err == (
        f"warning: {gateway}: identity.open: everybody may ask, told apart by address only\n"
    )


def test_check_names_every_mistake_on_a_line_with_the_file(mantlet: Mantlet, gateway: Path) -> None:
    result = mantlet("check", gateway, "--set", "device=abacus", "--set", "secret=short")

    assert result.code == 2
    assert result.out == ""
    mistakes = [line for line in result.err.splitlines() if line.startswith("mantlet: ")]
    assert len(mistakes) == 2
    assert all(line.startswith(f"mantlet: {gateway}: ") for line in mistakes)


def test_overrides_are_taken_and_checked(mantlet: Mantlet, gateway: Path) -> None:
    result = mantlet("check", gateway, "--set", "listen.prot=1")

    assert result.code == 2
    assert result.err == (
        f"mantlet: {gateway}: listen.prot = 1: unknown setting; remove it or mend its spelling\n"
    )


def test_a_key_is_printed_once_alone_and_works(
    mantlet: Mantlet, gateway: Path, tmp_path: Path
) -> None:
    """Standard output is the key and nothing else, for scripts."""
    result = mantlet("keys", "create", "--client", "acme", "--tier", "paid", "--config", gateway)
    found = KeyFile(tmp_path / "keys.json").find(result.out.strip(), 0.0)

    assert result.code == 0
    assert found is not None
    assert (found.client, found.tier) == ("acme", "paid")
    assert found.id in result.err
    assert "shown only now" in result.err
    assert found.created > 1.7e9


def test_keys_are_listed_without_their_hashes_and_revoked_by_id(
    mantlet: Mantlet, gateway: Path
) -> None:
    made = json.loads(
        mantlet("keys", "create", "--client", "acme", "--config", gateway, "--json").out
    )
    mantlet("keys", "create", "--client", "other", "--config", gateway)
    revoked = mantlet("keys", "revoke", made["id"], "--config", gateway)
    listed = json.loads(mantlet("keys", "list", "--config", gateway, "--json").out)
    table = mantlet("keys", "list", "--config", gateway).out

    assert made.keys() == {"id", "client", "tier", "key"}
    assert revoked.out == f"Key {made['id']} of acme is revoked.\n"
    assert [(k["client"], k["revoked"]) for k in listed] == [("acme", True), ("other", False)]
    assert listed[0].keys() == {"id", "client", "tier", "created", "revoked"}
    assert "revoked" in table
    assert "in force" in table
    assert made["key"] not in table


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (("create", "--client", "acme", "--tier", "pad"), "did you mean 'paid'?"),
        (("revoke", "ffff"), "key 'ffff' is not in"),
    ],
)
def test_a_mistake_about_keys_is_named(
    mantlet: Mantlet, gateway: Path, words: tuple[str, ...], mistake: str
) -> None:
    result = mantlet("keys", *words, "--config", gateway)

    assert result.code == 2
    assert mistake in result.err


def test_every_change_of_keys_is_an_event_without_the_key(
    mantlet: Mantlet, gateway: Path, tmp_path: Path
) -> None:
    words = ("--client", "acme", "--tier", "paid", "--config", gateway, "--json")
    made = json.loads(mantlet("keys", "create", *words).out)
    mantlet("keys", "revoke", made["id"], "--config", gateway)
    lines = mantlet("events", "list", gateway, "--json").out.splitlines()
    created, revoked = map(json.loads, lines)

    assert (created["kind"], revoked["kind"]) == ("key_created", "key_revoked")
    assert created["fields"] == revoked["fields"]
    assert (
        created["fields"].items() >= {"name": "acme", "tier": "paid", "key_id": made["id"]}.items()
    )
    assert made["key"] not in (tmp_path / "events.jsonl").read_text()


def test_no_key_is_made_where_no_event_can_be_written(
    mantlet: Mantlet, gateway: Path, tmp_path: Path
) -> None:
    (tmp_path / "events.jsonl").mkdir()
    result = mantlet("keys", "create", "--client", "acme", "--config", gateway)

    assert (result.code, result.out) == (2, "")
    assert "events.jsonl' cannot be written" in result.err
    assert KeyFile(tmp_path / "keys.json").all() == []


def test_events_are_listed_by_kind_and_client(mantlet: Mantlet, gateway: Path) -> None:
    for name in ("acme", "[bold]other"):
        mantlet("keys", "create", "--client", name, "--config", gateway)
    table = mantlet("events", "list", gateway).out
    one = mantlet("events", "list", gateway, "--client", "acme").out
    none = mantlet("events", "list", gateway, "--kind", "alarm", "--json")

    assert "key_created" in table
    assert "[bold]other" in table
    assert "acme" in one
    assert "other" not in one
    assert none == Result(0, "", "")
    assert mantlet("events", "list", gateway, "--kind", "alram").code == 2


def test_a_whole_chain_is_said_to_be_and_a_broken_one_named_by_line(
    mantlet: Mantlet, gateway: Path, tmp_path: Path
) -> None:
    nothing = mantlet("events", "verify", gateway)
    for name in ("acme", "other"):
        mantlet("keys", "create", "--client", name, "--config", gateway)
    log = tmp_path / "events.jsonl"
    whole = mantlet("events", "verify", gateway)
    with log.open("ab") as file:
        file.write(b"{")
    unfinished = mantlet("events", "verify", gateway)
    log.write_bytes(log.read_bytes().replace(b"acme", b"acne"))
    broken = mantlet("events", "verify", gateway)

    assert nothing == Result(
        2, "", f"mantlet: events '{log}': there are none; mantlet serve begins the log\n"
    )
    assert whole.code == unfinished.code == 0
    assert whole.out.startswith("2 events, chain whole; the last hash is ")
    assert "was not finished" in unfinished.out
    assert broken == Result(
        2, "", f"mantlet: {log}: line 1: was edited, or sealed with another secret\n"
    )


def test_a_chain_is_checked_over_files_and_from_a_record_on(
    mantlet: Mantlet, gateway: Path, tmp_path: Path
) -> None:
    log, beside, moved = (tmp_path / name for name in ("events.jsonl", "events.jsonl.2", "old"))
    for name in ("acme", "other"):
        mantlet("keys", "create", "--client", name, "--config", gateway)
    log.rename(beside)  # as the gateway does with a large file
    mantlet("keys", "create", "--client", "third", "--config", gateway)
    by_itself = mantlet("events", "verify", gateway)
    listed = mantlet("events", "list", gateway).out
    beside.rename(moved)

    assert by_itself.out.startswith("3 events, chain whole")
    assert "acme" in listed
    assert mantlet("events", "verify", gateway) == Result(
        2, "", f"mantlet: {log}: line 1: before record 3, records 1 to 2 are missing\n"
    )
    assert mantlet("events", "verify", gateway, moved).out.startswith("3 events, chain whole")
    assert mantlet("events", "verify", gateway, "--from", "3").out.startswith(
        "1 events, chain whole"
    )


def test_budgets_are_told_of_one_model_for_people_and_for_machines(
    mantlet: Mantlet, root: Path, tmp_path: Path
) -> None:
    curve = str(root / "configs/models/mnist-ini.curve.json")
    raw = config(root, tmp_path)
    measured = raw["models"]["mnist"] | {"detectors": [{"type": "coverage", "curve": curve}]}
    raw["models"] = {"plain": measured | {"detectors": ["rate"]}, "measured": measured}
    path = write_config(tmp_path / "two.yaml", raw)
    told, listed = (
        mantlet("budget", path, "--model", "measured", *more) for more in ((), ["--json"])
    )
    unnamed, wrong = mantlet("budget", path), mantlet("budget", path, "--model", "plain")
    rows = list(json.loads(listed.out).values())

    assert rows == sorted(rows)
    assert all(str(number) in told.out for number in rows)
    assert (unnamed.code, wrong.code) == (2, 2)
    assert "has models plain, measured; name one with --model" in unnamed.err
    assert "no detector of type coverage has a curve" in wrong.err


def test_campaigns_are_told_for_people_and_for_machines(
    mantlet: Mantlet, root: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "m.yaml", config(root, tmp_path, store="sqlite:///state.db"))
    told, listed = mantlet("campaigns", path), mantlet("campaigns", path, "--json")
    wrong = mantlet("campaigns", path, "--model", "mnits")

    assert (told.code, told.out) == (0, "mnist: 0 clients\n")
    assert json.loads(listed.out) == [
        {"model": "mnist", "clients": 0, "drifts": [], "campaigns": []}
    ]
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


def test_calibrate_writes_and_reports(root: Path, tmp_path: Path, digits: Images) -> None:
    """As a program, for it configures the logs of its process: they go to standard error."""
    raw = config(root, tmp_path)
    raw["models"]["mnist"]["calibration"] = str(tmp_path / "c.safetensors")
    path = write_config(tmp_path / "gateway.yaml", raw)
    np.savez(tmp_path / "benign.npz", x_train=digits.x[:800])
    words = ["calibrate", path, "--benign", tmp_path / "benign.npz", "--rows", "100:"]
    program = subprocess.run(
        [sys.executable, "-m", "serving.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    lines = program.stdout.splitlines()

    assert program.returncode == 0
    assert lines[0] == f"calibration: {tmp_path / 'c.safetensors'} (700 rows)"
    assert sum("foreign" in line for line in lines) == 4, "a line for each of its scores"
    assert lines[-2].startswith("alarms: at most one honest client in 1,000,000 is ever accused")
    assert lines[-1] == f"picture: {tmp_path / 'c.png'}"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "victim_engine" in program.stderr
    assert calibration.read(tmp_path / "c.safetensors")[1] == weights.fingerprint(
        root / "configs/models/mnist-ini.safetensors"
    )


def test_calibrate_names_what_is_wrong_with_the_rows(mantlet: Mantlet, gateway: Path) -> None:
    result = mantlet("calibrate", gateway, "--benign", "/none.npz")
    rows = mantlet("calibrate", gateway, "--benign", gateway, "--rows", "half")

    assert (result.code, rows.code) == (2, 2)
    assert "data '/none.npz': no such file" in result.err
    assert "rows 'half': write START:STOP" in rows.err


def test_calibrate_enrols_a_tier(
    mantlet: Mantlet, root: Path, tmp_path: Path, digits: Images
) -> None:
    raw = config(root, tmp_path)
    own = tmp_path / "c.safetensors"
    own.write_bytes((root / "configs/models/mnist-ini.calibration.safetensors").read_bytes())
    raw["models"]["mnist"]["calibration"] = str(own)
    raw["tiers"]["scanner"] = {}
    path = write_config(tmp_path / "gateway.yaml", raw)
    np.savez(tmp_path / "benign.npz", x_train=0.8 * digits.x[:300])
    result = mantlet("calibrate", path, "--benign", tmp_path / "benign.npz", "--tier", "scanner")
    unknown = mantlet("calibrate", path, "--benign", tmp_path / "benign.npz", "--tier", "scaner")

    assert (result.code, unknown.code) == (0, 2)
    assert f"picture: {tmp_path / 'c.scanner.png'}" in result.out
    assert "tolerated.scanner" in calibration.read(own)[0]["foreign"]
    assert "tier 'scaner' is unknown; did you mean 'scanner'" in unknown.err


def test_train_writes_weights_that_remember_their_recipe(
    mantlet: Mantlet, tmp_path: Path, digits: Images
) -> None:
    assert digits.y is not None
    data, recipe = tmp_path / "data.npz", tmp_path / "recipe.yaml"
    np.savez(
        data,
        x_train=digits.x[:400],
        y_train=digits.y[:400],
        x_test=digits.x[400:600],
        y_test=digits.y[400:600],
    )
    plan = {
        "architecture": "lenet",
        "settings": {"width": 4},
        "epochs": 2,
        "batch": 50,
        "holdout": 100,
        "output": "own.safetensors",
    }
    recipe.write_text(yaml.safe_dump(plan))
    result = mantlet("train", recipe, "--data", data)
    elsewhere = mantlet("train", recipe, "--data", data, "--output", tmp_path / "b.safetensors")
    header = weights.metadata(tmp_path / "own.safetensors")

    assert (result.code, elsewhere.code) == (0, 0)
    assert result.out.startswith(f"weights: {tmp_path / 'own.safetensors'}\ntest accuracy: 0.")
    assert json.loads(header["recipe"])["epochs"] == 2
    assert header["data"] == weights.fingerprint(data)
    assert weights.fingerprint(tmp_path / "own.safetensors") == weights.fingerprint(
        tmp_path / "b.safetensors"
    ), "the same recipe, data and seed give the same file"


def test_convert_says_what_it_wrote(mantlet: Mantlet, tmp_path: Path) -> None:
    torch.save(architectures.build("lenet", {"width": 2}).state_dict(), tmp_path / "m.pt")
    result = mantlet("convert", tmp_path / "m.pt", tmp_path / "m.safetensors")
    again = mantlet("convert", tmp_path / "m.pt", tmp_path / "m.safetensors")

    assert result.code == 0
    assert result.out.startswith(f"{tmp_path / 'm.safetensors'}: 8 tensors: convolutions.0.bias, ")
    assert again.code == 2


def test_plugins_are_listed_for_people_and_for_machines(mantlet: Mantlet) -> None:
    table, listed = mantlet("plugins").out, json.loads(mantlet("plugins", "--json").out)

    assert {"rounding", "foreign", "torch", "lenet"} <= {entry["type"] for entry in listed}
    assert "reverse_sigmoid" in table


def test_doctor_names_versions(mantlet: Mantlet) -> None:
    result = mantlet("doctor")

    assert result.code == 0
    assert f"mantlet {__version__}" in result.out


def test_it_runs_as_a_program(root: Path) -> None:
    program = subprocess.run(
        [sys.executable, "-m", "serving.cli", "check", "/none.yaml"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )

    assert program.returncode == 2
    assert program.stderr.startswith("mantlet: config '/none.yaml': no such file")
    assert "Traceback" not in program.stderr
