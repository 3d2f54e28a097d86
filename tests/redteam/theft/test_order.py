"""Every mistake about a theft is told before a row is sent, by what is wrong and what would do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mantlet.errors import ConfigError, TargetError
from redteam.attacks.knockoff import Knockoff
from redteam.client.tape import Tape
from redteam.learning import Means
from redteam.theft.attacking import TAPE
from redteam.theft.order import Order, clone_of, parse_attack, prepared, read_keys
from tests.e2e.harness import Running
from tests.e2e.upstream_servers import HostileServer, free_port, saying
from tests.redteam.oracles import Patient


@pytest.fixture
def options(running: Running, files: Path, tmp_path: Path) -> dict[str, Any]:
    """Options without a mistake."""
    return {
        "name": "knockoff",
        "target": running.url,
        "model": "mnist",
        "key": running.keys[:1],
        "surrogate": files / "own.npz",
        "eval": files / "eval.npz",
        "out": tmp_path / "out",
        "budget": 10,
    }


def test_what_is_right_is_prepared_and_no_row_is_sent(
    running: Running, options: dict[str, Any]
) -> None:
    asked = running.computed()
    target, thief, judged = prepared(Order.of(**options, seed=3, label_only=True))

    assert running.computed() == asked
    assert (target.model, thief.budget, thief.seed) == ("mnist", 10, 3)
    assert thief.means.pool.shape == (2000, 1, 28, 28)
    assert [treatment.type for treatment in thief.attack.treatments] == ["labels"]
    assert judged.y is not None
    assert not options["out"].exists()


def test_classes_come_from_the_target_or_from_the_labels(options: dict[str, Any]) -> None:
    labels = prepared(Order.of(**options | {"model": "labels"}))[1]
    given = prepared(Order.of(**options, classes=26))[1]

    assert (labels.means.classes, given.means.classes) == (10, 26)


@pytest.mark.parametrize(
    ("own", "shape", "clone"),
    [
        ({}, (1, 28, 28), ("lenet", {"width": 8})),
        ({}, (1, 32, 32), ("resnet", {"width": 8, "channels": 1})),
        ({"clone_set": ["width=4"]}, (3, 32, 32), ("resnet", {"width": 4, "channels": 3})),
        ({"clone": "resnet"}, (3, 32, 32), ("resnet", {"width": 8})),
    ],
)
def test_a_clone_that_nobody_named_takes_the_pictures_that_there_are(
    options: dict[str, Any], own: dict[str, Any], shape: tuple[int, ...], clone: Any
) -> None:
    network = Means(torch.zeros(0, *shape), 10, *clone_of(Order.of(**options | own), shape))

    made = network.network(torch.Generator().manual_seed(0)).eval()(torch.zeros(1, *shape))
    assert made.shape == (1, 10)
    assert (network.architecture, dict(network.settings)) == clone


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        ({"name": "knockof"}, "attack 'knockof' is unknown; did you mean 'knockoff'"),
        ({"name": "copycat", "surrogate": None}, "give --surrogate"),
        ({"model": "mnits"}, "no model 'mnits'; did you mean 'mnist'"),
        ({"key": ["mk_wrong"]}, r"refuses the key \(401"),
        ({"key": []}, r"refuses the key \(401"),
        ({"surrogate": Path("/none.npz")}, "data '/none.npz': no such file"),
        ({"clone": "lenett"}, "architecture 'lenett' is unknown; did you mean 'lenet'"),
        ({"clone": "resnet", "clone_set": ["blocks=1"]}, "'resnet' does not take pictures of"),
        ({"set": ["training.steps=0"]}, "'knockoff': training.steps: Input should be greater"),
        ({"set": ["batches=3"]}, "batches: is no setting; did you mean 'batch'"),
        ({"eval_key": "mk_nobody"}, "refuses the key"),
        ({"set": ["batch"]}, "setting 'batch': write it as field=value"),
        ({"set": ["batch=[1"]}, "is not YAML"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], change: dict[str, Any], telling: str) -> None:
    with pytest.raises(ConfigError, match=telling):
        prepared(Order.of(**options | change))
    assert not options["out"].exists()


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        ({"budget": 0}, "--budget 0: Input should be greater than 0"),
        ({"cover_share": 1.0}, "--cover-share 1.0: Input should be less than 1"),
        ({"protocol": "v3"}, "--protocol v3: Input should be 'v2', 'v2-json' or 'v1'"),
        ({"average": 0}, "--average 0"),
    ],
)
def test_options_out_of_bounds_are_named_as_they_are_typed(
    options: dict[str, Any], change: dict[str, Any], telling: str
) -> None:
    with pytest.raises(ConfigError, match=telling):
        Order.of(**options | change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("knockoff", {"by": "seeds"}),
        ("knockoff", {"features": Path("lenet.safetensors")}),
        ("i2i", {"label_only": True}),
        ("i2i", {"classes": 10}),
        ("i2i", {"by": "seeds"}),
        ("gan", {"eval": Path("eval.npz")}),
        ("gan", {"eval_key": "mk_judge"}),
        ("gan", {"classes": 10}),
    ],
)
def test_an_option_that_the_attack_would_ignore_is_refused(
    name: str, change: dict[str, Any]
) -> None:
    (option,) = change
    told = f"attack '{name}' does not use --{option.replace('_', '-')}; leave it out"
    plain = {"name": name, "target": "http://x", "model": "m", "out": Path("o"), "budget": 1}

    assert Order.of(**plain).name == name
    with pytest.raises(ConfigError, match=told):
        Order.of(**plain | change)


@pytest.mark.parametrize("file", ["surrogate", "eval", "cover"])
def test_pictures_of_another_shape_are_named_with_the_models(
    options: dict[str, Any], files: Path, file: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{file} '.*colour.npz' .*\(3, 32, 32\).*\(1, 28, 28\)"):
        prepared(Order.of(**options | {file: files / "colour.npz"}))


def test_a_clone_cannot_be_judged_without_labels(options: dict[str, Any], files: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval '.*bare.npz' has no labels"):
        prepared(Order.of(**options | {"eval": files / "bare.npz"}))


def test_pictures_of_classes_that_the_target_lacks_do_not_judge(
    options: dict[str, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "many.npz", x_test=np.zeros((2, 28, 28), np.uint8), y_test=[3, 241])
    with pytest.raises(
        ConfigError, match=r"eval '.*many.npz' has label 241, the target 10 classes"
    ):
        prepared(Order.of(**options | {"eval": tmp_path / "many.npz"}))


def test_a_model_that_answers_pictures_is_told_before_a_row_is_sent(
    options: dict[str, Any],
) -> None:
    grey = {"name": "x", "datatype": "FP32", "shape": [-1, 1, 28, 28]}
    about = {"inputs": [grey], "outputs": [grey | {"shape": [-1, 1, 56, 56]}]}
    with HostileServer(metadata=saying(about)) as server:
        order = Order.of(**options | {"target": server.url})
        with pytest.raises(ConfigError, match="answers pictures; attack 'knockoff' is for a class"):
            prepared(order)


def test_a_target_that_is_down_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="is it running"):
        prepared(Order.of(**options | {"target": f"http://127.0.0.1:{free_port()}"}))


def test_a_server_of_v1_alone_has_no_metadata_to_check(options: dict[str, Any]) -> None:
    with HostileServer(metadata=saying({}, status=404)) as server:
        target = {"target": server.url, "protocol": "v1"}
        thief = prepared(Order.of(**options | target))[1]

    assert thief.means.classes == 10


def test_a_denied_account_is_left_out_and_a_thief_of_denied_accounts_is_told(
    options: dict[str, Any],
) -> None:
    with HostileServer(metadata=saying({"error": "no"}, status=403)) as server:
        order = Order.of(**options | {"target": server.url})
        with pytest.raises(ConfigError, match="denies this account: no; give a key"):
            prepared(order)


def test_an_output_folder_of_something_else_is_left_alone(
    options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other things and no run"):
        prepared(Order.of(**options))
    with pytest.raises(ConfigError, match="is a file"):
        prepared(Order.of(**options | {"out": out / "thesis.tex"}))

    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_an_output_folder_of_another_run_is_refused_by_what_differs(
    options: dict[str, Any],
) -> None:
    target, thief, _ = prepared(Order.of(**options))
    with Tape(Patient(), options["out"] / TAPE, thief.header(target)):
        pass
    prepared(Order.of(**options))
    with pytest.raises(ConfigError, match="holds another run: seed was 0 and is 1"):
        prepared(Order.of(**options, seed=1))


def test_another_pool_is_another_run(options: dict[str, Any]) -> None:
    headers = []
    for rows in (":", ":100"):
        target, thief, _ = prepared(Order.of(**options, surrogate_rows=rows))
        headers.append(thief.header(target))
    changed = {name for name in headers[0] if headers[0][name] != headers[1][name]}

    assert changed == {"surrogate"}


def test_settings_of_an_attack_are_yaml_and_may_be_nested() -> None:
    attack = parse_attack("knockoff", ["training.steps=7", "training.lr=0.1", "adaptive=true"])

    assert isinstance(attack, Knockoff)
    assert (attack.training.steps, attack.training.lr, attack.adaptive) == (7, 0.1, True)


def test_keys_come_from_a_file_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the thief\nmk_a\n\n mk_b \n")

    assert read_keys(["mk_0"], file) == ["mk_0", "mk_a", "mk_b"]
    file.write_text("\n")
    for path, telling in ((file, "has none"), (tmp_path / "no", "cannot be read")):
        with pytest.raises(ConfigError, match=telling):
            read_keys([], path)


def test_the_judged_rows_are_asked_with_their_own_key_or_the_first_one(
    options: dict[str, Any],
) -> None:
    def key(**changes: Any) -> str | None:
        return Order.of(**options | changes).asks_with

    assert key() is None
    assert key(ask_eval=True) == options["key"][0]
    assert key(ask_eval=True, key=[]) == ""
    assert key(eval_key="mk_judge") == "mk_judge"
