"""A theft from a real gateway: what it brings home, and what is left when it is banned, stopped or cut off."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mantlet import architectures, weights
from mantlet.data import Images, load_images
from mantlet.errors import ConfigError, TargetError
from redteam.attacks.attack import silent
from redteam.attacks.knockoff import Knockoff
from redteam.attacks.megex import Megex
from redteam.cli import app
from redteam.learning import Means, Training
from redteam.theft import attacking
from redteam.theft.attacking import CLONE, REPORT, TAPE, Target, Thief
from serving.victims.torch import TorchVictim
from tests.e2e.harness import ROOT, Running
from tests.e2e.upstream_servers import Answer, HostileServer, hanging_up, saying
from tests.redteam import targets

QUICK = Knockoff(training=Training(steps=1))


@pytest.fixture(scope="module")
def judged(files: Path) -> Images:
    return load_images(files / "eval.npz", "test")


def thief(digits: Images, budget: int, *, steps: int = 40, **tricks: Any) -> Thief:
    attack = Knockoff(request=32, training=Training(steps=steps))
    own = Means(torch.from_numpy(digits.x[:2000]), settings={"width": 4})
    return Thief(attack, own, budget, **tricks)


def means(classes: int) -> Means:
    """Of a thief at a server that looks at no picture."""
    return Means(torch.rand(500, 1, 28, 28), classes, settings={"width": 1})


def aim(running: Running, *, model: str = "mnist", accounts: int = 1, **how: Any) -> Target:
    return Target(running.url, model, [running.new_key() for _ in range(accounts)], **how)


def steal(target: Target, by: Thief, judged: Images, out: Path, **how: Any) -> dict[str, Any]:
    return attacking.run(target, by, judged, out, progress=silent, **how)


def report(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / REPORT).read_text())
    return told


def test_a_key_that_judges_no_more_costs_the_agreement_and_not_the_clone(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    told = steal(aim(running), thief(digits, 64, steps=2), judged, tmp_path, ask_with="mk_revoked")

    assert told == report(tmp_path)
    assert "refuses the key" in told["agreement_missing"]
    assert told["clone_accuracy"] is not None
    assert (tmp_path / CLONE).is_file()


def test_a_clone_is_stolen_judged_and_written(
    running: Running,
    digits: Images,
    judged: Images,
    tmp_path: Path,
    shipped_victim: TorchVictim,
) -> None:
    told = steal(
        aim(running), thief(digits, 800, steps=300), judged, tmp_path, ask_with=running.new_key()
    )
    clone = architectures.build("lenet", {"width": 4})
    weights.load_into(clone, tmp_path / CLONE, "lenet")
    inputs = torch.from_numpy(judged.x)
    named = clone.eval()(inputs).argmax(dim=1)

    assert told == report(tmp_path)
    assert (told["rows"], told["floats"], told["rows_asked_to_judge"]) == (800, 8000, 1000)
    assert told["clone_accuracy"] > 0.8, "with pictures of the model's own kind it is easy"
    assert told["clone_accuracy"] == pytest.approx(float((named.numpy() == judged.y).mean()))
    victims = shipped_victim.predict(inputs).values.argmax(dim=1)
    assert told["agreement"] == pytest.approx(float((named == victims).double().mean()))
    assert weights.metadata(tmp_path / CLONE)["attack"] == "knockoff"


def test_a_second_run_sends_no_row_again_and_makes_the_same_clone(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    target, by = aim(running), thief(digits, 200)
    first = steal(target, by, judged, tmp_path)
    clone, asked = (tmp_path / CLONE).read_bytes(), running.computed()
    second = steal(target, by, judged, tmp_path)

    assert second == first | {"rows_taped": 200}
    assert running.computed() == asked
    assert (tmp_path / CLONE).read_bytes() == clone


def test_explanations_are_stolen_with_the_answers_and_are_on_the_tape(
    running: Running, judged: Images, tmp_path: Path
) -> None:
    attack = Megex(batch=16, clone_steps=2, training=Training(steps=1), matching=1.0)
    by = Thief(attack, Means(torch.zeros(0, 1, 28, 28), settings={"width": 2}), 150)
    target = aim(running, model="explained", accounts=2)
    first = steal(target, by, judged, tmp_path)
    second = steal(target, by, judged, tmp_path)

    assert (first["rows"], first["ended"]) == (150, "budget spent")
    assert first["floats"] > 10 * 150 + 784 * 40
    assert second == first | {"rows_taped": second["rows_taped"]}
    assert second["rows_taped"] > 100


def test_a_ban_midway_ends_the_queries_and_keeps_what_was_answered(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    told = steal(aim(running, model="denying"), thief(digits, 1000), judged, tmp_path)

    assert "denies this account" in told["ended"]
    assert 90 <= told["rows_learned"] < told["rows"] <= 200
    assert told["accounts_refused"] == 1
    assert told["clone_accuracy"] > 0.1
    assert (tmp_path / CLONE).is_file()


@pytest.mark.parametrize("split", [True, False])
def test_more_accounts_get_more_before_all_are_banned(
    running: Running, digits: Images, judged: Images, tmp_path: Path, split: bool
) -> None:
    target = aim(running, model="denying", accounts=3, split=split)
    told = steal(target, thief(digits, 1000), judged, tmp_path)

    assert told["ended"].startswith("all 3 accounts are refused")
    assert told["rows_learned"] >= 270
    assert told["accounts_refused"] == 3


def test_labels_teach_as_well(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    told = steal(aim(running, model="labels"), thief(digits, 400, steps=150), judged, tmp_path)

    assert told["floats"] == told["rows"] == 400
    assert told["clone_accuracy"] > 0.5


def test_repeats_and_cover_count_against_the_budget(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    cover = torch.from_numpy(digits.x[2000:2100])
    tricks: dict[str, Any] = {"times": 4, "jitter": 0.01, "cover": cover, "share": 0.5}
    told = steal(aim(running), thief(digits, 1000, **tricks), judged, tmp_path)

    assert told["ended"] == "budget spent"
    assert 700 < told["rows"] <= 1000
    assert told["rows_learned"] == told["rows"] / 8


def test_a_target_that_fails_midway_is_told_and_the_rest_goes_on_later(
    digits: Images, judged: Images, tmp_path: Path
) -> None:
    with HostileServer() as server:
        four = Means(torch.rand(200, 4), 3)
        by = Thief(Knockoff(request=10), four, 100)
        target = Target(server.url, "m", batch=10)
        _after(server, 3, hanging_up)
        with pytest.raises(TargetError, match="closes the connection"):
            steal(target, by, judged, tmp_path)

    told = report(tmp_path)

    assert "closes the connection" in told["ended"]
    assert told["rows"] == 70, "three answered, and four tries of one that was not"
    assert told["clone_accuracy"] is None
    assert not (tmp_path / CLONE).exists()


NO = saying({"error": "no"}, status=403)
LONG = saying({"error": "later"}, status=429, Retry_After="3600")


@pytest.mark.parametrize("refusal", [NO, LONG])
@pytest.mark.parametrize(
    ("accounts", "tricks", "learned"),
    [
        (1, {}, 64),
        (2, {}, 64),
        (1, {"times": 4}, 16),
        (1, {"cover": torch.rand(50, 1, 28, 28), "share": 0.75}, 16),
    ],
)
def test_all_that_was_answered_before_a_refusal_is_learned_and_not_paid_again(
    judged: Images,
    tmp_path: Path,
    refusal: Answer,
    accounts: int,
    tricks: dict[str, Any],
    learned: int,
) -> None:
    by = Thief(QUICK, means(3), 500, **tricks)
    with HostileServer() as server:
        _after(server, 2, refusal)
        keys = [f"key {number}" for number in range(accounts)]
        told = steal(Target(server.url, "m", keys), by, judged, tmp_path)
        again = steal(Target(server.url, "m", keys), by, judged, tmp_path)

    assert told["rows_learned"] == learned
    assert told["accounts_refused"] == accounts
    assert told["rows"] == 32 * (2 + accounts)
    assert again["rows_taped"] == 64


@pytest.mark.parametrize(
    ("accounts", "tricks", "least", "most"),
    [
        (1, {}, 96, 96),
        (2, {}, 96, 96),
        (1, {"times": 4}, 32, 32),
        (1, {"cover": torch.rand(50, 1, 28, 28), "share": 0.75}, 10, 32),
    ],
)
def test_answers_that_come_while_another_request_is_refused_are_learned_and_not_paid_again(
    judged: Images, tmp_path: Path, accounts: int, tricks: dict[str, Any], least: int, most: int
) -> None:
    """Of four requests at once one is refused, and the others are answered only then."""
    by = Thief(QUICK.model_copy(update={"request": 128}), means(3), 500, **tricks)
    keys = [f"key {number}" for number in range(accounts)]
    with HostileServer() as server:
        target = Target(server.url, "m", keys, concurrency=4)
        server.answer = _one_refused(server.answer, of=4)
        told = steal(target, by, judged, tmp_path)
        again = steal(target, by, judged, tmp_path)

    assert least <= told["rows_learned"] <= most
    assert told["rows"] == 128 + 32 * (accounts - 1)
    assert again["rows_taped"] == 96


def _one_refused(honest: Answer, of: int) -> Answer:
    """One of the first requests, which are answered after that, and all others."""
    come: list[Any] = []
    all_there, refused = asyncio.Event(), asyncio.Event()

    async def answer(*parts: Any) -> None:
        come.append(parts)
        number = len(come)
        if number == of:
            all_there.set()
        await all_there.wait()
        if number >= of:
            await NO(*parts)
            refused.set()
            return
        await refused.wait()
        await honest(*parts)

    return answer


def test_answers_before_a_broken_connection_are_not_paid_again(
    judged: Images, tmp_path: Path
) -> None:
    by = Thief(QUICK, means(3), 96)
    with HostileServer() as server:
        honest = server.answer
        _after(server, 2, hanging_up)
        with pytest.raises(TargetError, match="closes the connection"):
            steal(Target(server.url, "m"), by, judged, tmp_path)
        server.answer = honest
        told = steal(Target(server.url, "m"), by, judged, tmp_path)

    assert (told["rows_taped"], told["rows_learned"]) == (64, 96)


def test_an_attack_may_ask_about_less_than_goes_out_at_once_and_never_about_more() -> None:
    target = Target("http://t", "m", batch=10, concurrency=3)
    asked = [
        Thief(Knockoff(request=request), means(3), 10, times=times).sized(target).request
        for request, times in ((256, 1), (20, 1), (256, 4), (256, 50))
    ]

    assert asked == [30, 20, 7, 1]


def test_a_target_of_another_number_of_classes_is_told_with_the_rows_it_cost(
    judged: Images, tmp_path: Path
) -> None:
    by = Thief(QUICK, means(5), 100)
    with HostileServer() as server, pytest.raises(ConfigError, match=r"answers \(32, 3\)"):
        steal(Target(server.url, "m"), by, judged, tmp_path)

    told = report(tmp_path)

    assert "the number of its classes" in told["ended"]
    assert (told["rows"], told["rows_learned"]) == (32, 0)


def _after(server: HostileServer, count: int, then: Answer) -> None:
    """The first ``count`` predictions are answered, and all others as told."""
    first = server.answer

    async def answer(*parts: Any) -> None:
        await (first if len(server.posts) <= count else then)(*parts)

    server.answer = answer


def test_an_interrupt_makes_a_clone_of_what_came_and_the_same_command_goes_on(
    running: Running, files: Path, tmp_path: Path
) -> None:
    command = ["attack", "knockoff", *targets.QUICK]
    command += ["--target", running.url, "--model", "mnist", "--key", running.new_key()]
    command += ["--surrogate", str(files / "own.npz"), "--eval", str(files / "eval.npz")]
    command += ["--budget", "800", "--batch", "2", "--out", str(tmp_path / "out"), "--json"]
    tape = tmp_path / "out" / TAPE
    # where the tests run in the background interrupts are ignored, and children would inherit that
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    first = subprocess.Popen(
        [sys.executable, "-m", "redteam.cli", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, ours)
    while first.poll() is None and not (tape.is_file() and tape.stat().st_size > 4000):
        time.sleep(0.005)
    first.send_signal(signal.SIGINT)
    said, warned = first.communicate(timeout=120)
    stopped = json.loads(said)
    again = CliRunner().invoke(app, command)
    second = json.loads(again.stdout)

    assert first.returncode == 130
    assert "The same command goes on from here." in warned
    assert stopped["ended"] == "interrupted"
    assert 0 < stopped["rows_learned"] < 800
    assert second["rows_taped"] >= stopped["rows_learned"]
    assert second["rows_taped"] < second["rows_learned"] <= second["rows"] <= 800
    assert (again.exit_code, second["ended"]) == (0, "budget spent")


def test_other_settings_do_not_go_on_from_this_run(
    running: Running, digits: Images, judged: Images, tmp_path: Path
) -> None:
    target = aim(running)
    steal(target, thief(digits, 64), judged, tmp_path)
    with pytest.raises(ConfigError, match="budget was 64 and is 65; run it with the settings"):
        steal(target, thief(digits, 65), judged, tmp_path)

    assert report(tmp_path)["budget"] == 64
