"""What clients ask about rows is checked before anything is computed."""

import pytest
import torch
from pydantic import ValidationError

from mantlet.attribution import METHODS, Attribution
from mantlet.errors import RequestError
from serving.explaining import TOP, Explain, Explaining


def explaining(**settings: object) -> Explaining:
    return Explaining(Attribution(lambda rows: rows), 3, Explain.model_validate(settings))


def test_without_a_method_the_first_one_is_taken() -> None:
    assert explaining().ask(2).method == METHODS[0] == "gradient"
    assert explaining().ask(2, "smooth_grad").method == "smooth_grad"


def test_a_method_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean 'smooth_grad'") as refused:
        explaining().ask(1, "smoothgrad")

    assert refused.value.status == 400


@pytest.mark.parametrize("chosen", [3, -1, -2, 10**30, [0, 3]])
def test_a_class_that_does_not_exist_is_refused(chosen: int | list[int]) -> None:
    with pytest.raises(RequestError, match="this model has 0 to 2") as refused:
        explaining(classes="any").ask(2, classes=chosen)

    assert refused.value.status == 400


def test_as_many_classes_as_rows_are_wanted() -> None:
    with pytest.raises(RequestError, match="3 classes for 2 rows"):
        explaining(classes="any").ask(2, classes=[0, 1, 2])


def test_where_the_likeliest_class_alone_is_explained_another_is_refused() -> None:
    with pytest.raises(RequestError, match="leave 'class' out") as refused:
        explaining(classes="top").ask(1, classes=0)

    assert refused.value.status == 403


def test_unless_the_config_says_otherwise_the_likeliest_class_alone_is_explained() -> None:
    with pytest.raises(RequestError, match="leave 'class' out") as refused:
        explaining().read(1, {"class": 0})

    assert Explain().classes == "top"
    assert refused.value.status == 403


@pytest.mark.parametrize("wanted", [10**30, 1e30, -1e30, 2**63, "12345678901", "-1", "9" * 1000])
def test_numbers_that_are_too_large_are_classes_that_do_not_exist(wanted: object) -> None:
    with pytest.raises(RequestError, match="does not exist; this model has 0 to 2") as refused:
        explaining(classes="any").read(1, {"class": wanted})

    assert refused.value.status == 400
    assert len(str(refused.value)) < 120


def test_a_text_where_classes_should_be_listed_is_sent_to_json() -> None:
    with pytest.raises(RequestError, match=r"'classes' must be a list.*; send it in JSON"):
        explaining(classes="any").read(1, {"classes": "7"})
    with pytest.raises(RequestError, match=r"one for each row$"):
        explaining(classes="any").read(1, {"classes": 7})


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(
        RequestError, match="5 rows to explain in one request; at most 4"
    ) as refused:
        explaining(max_rows_per_request=4).ask(5)

    assert refused.value.status == 413


def test_the_likeliest_class_is_that_of_the_row() -> None:
    answers, every = torch.eye(3), torch.arange(3)
    any_class = explaining(classes="any")

    assert explaining().ask(3).classes.tolist() == [TOP] * 3
    assert explaining().ask(3).of(answers, every).tolist() == [0, 1, 2]
    assert any_class.ask(3, classes=[2, 0, 1]).of(answers, every).tolist() == [2, 0, 1]
    assert any_class.ask(3, classes=1).of(answers[1:], every[1:]).tolist() == [1, 1]


@pytest.mark.parametrize("settings", [{"methods": []}, {"methods": ["lime"]}, {"steps": 1}])
def test_settings_have_bounds(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Explain.model_validate(settings)
