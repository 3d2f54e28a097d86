import inspect
import re

import pytest

from mantlet import errors
from mantlet.errors import MantletError, RequestError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
}


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = set(re.findall(r"\b(\w+(?:Error|Timeout|Away))\b", errors.__doc__ or ""))

    assert drawn == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_belongs_to_the_one_tree(name: str) -> None:
    assert issubclass(CLASSES[name], MantletError)


def test_a_refusal_carries_status_reason_and_its_own_headers() -> None:
    headers = {"Retry-After": "3"}
    error = RequestError(429, "too many", reason="rate", headers=headers)
    headers.clear()

    assert (str(error), error.status, error.reason) == ("too many", 429, "rate")
    assert error.headers == {"Retry-After": "3"}


def test_a_refusal_is_a_bad_request_without_headers_by_default() -> None:
    error = RequestError(400, "no rows")

    assert (error.reason, error.headers) == ("bad_request", {})
