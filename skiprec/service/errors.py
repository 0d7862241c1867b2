"""Errors as JSON that says which field is wrong, what was expected and what came."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from skiprec.service.schema import ErrorAnswer, Problem

FOUND_LENGTH = 80
FAILED = "the service has failed; its log says why"
Model = TypeVar("Model", bound=BaseModel)
ID_KINDS = ("str", "int", "function-before")
ID_ERRORS = ("string_type", "int_type")
MAX_PROBLEMS = 10
PAGES = ("/", "/healthz", "/readyz", "/metrics", "/v1/model", "/v1/items")
POSTS = ("/v1/recommend", "/v1/items/lookup")


class RefusedError(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        error: what went wrong, for people.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        error: str,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(error)
        self.status, self.error, self.problems = status, error, list(problems)
        self.headers = headers

    def response(self) -> JSONResponse:
        """The error as an answer of HTTP."""
        body = ErrorAnswer(error=self.error, problems=self.problems)
        return JSONResponse(body.model_dump(), self.status, self.headers)


def refuse_field(field: str, expected: str, found: Any) -> RefusedError:
    """The error of one field of a request."""
    problem = Problem(field=field, expected=expected, found=short(found))
    return RefusedError(422, "the request is not valid", [problem])


def short(value: Any) -> str:
    """A value for an error message: printable, and not too long."""
    text = ascii(value)
    return text if len(text) <= FOUND_LENGTH else text[:FOUND_LENGTH] + "…"


def add_error_answers(app: FastAPI) -> None:
    """Every error of the application leaves as an `ErrorAnswer`."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(error.errors()).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return RefusedError(500, FAILED).response()  # starlette lets uvicorn log the error

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        known = f"; there are: GET {', '.join(PAGES)}, POST {', '.join(POSTS)}"
        where = f"{request.method} {request.url.path}"
        text = f"{error.detail}: {where}" + (known if error.status_code in (404, 405) else "")
        return RefusedError(error.status_code, text, headers=error.headers).response()


def read_body(model: type[Model], body: bytes) -> Model:
    """A body of JSON.

    Raises:
        RefusedError: it is none, or not what the model says.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)) from None


def _refusal(errors: Sequence[Mapping[str, Any]]) -> RefusedError:
    # An id may be text or a number, and pydantic tells of both.
    found = list(dict.fromkeys(_problem(one) for one in errors))
    problems = found[:MAX_PROBLEMS]
    more = len(found) - len(problems)
    text = "the request is not valid" + (f" ({more} more problems)" if more else "")
    return RefusedError(422, text, problems)


def _problem(error: Mapping[str, Any]) -> Problem:
    """A problem as pydantic found it. The message of pydantic says what was expected."""
    place = [str(part) for part in error["loc"] if part != "body"]
    kind, message = error["type"], str(error["msg"])
    if kind in ID_ERRORS and place[-1:] and place[-1].split("[")[0] in ID_KINDS:
        place, message = place[:-1], "an item id, as text or a whole number"
    if kind == "json_invalid":
        reason = error.get("ctx", {}).get("error", message)
        return Problem(field="body", expected="JSON", found=short(str(reason)))
    if kind == "missing":
        return Problem(field=".".join(place) or "body", expected="a value", found="nothing")
    if kind == "extra_forbidden":
        return Problem(field=".".join(place), expected="no such field", found=short(error["input"]))
    expected = message.removeprefix("Input should be ")
    return Problem(
        field=".".join(place) or "body", expected=expected, found=short(error.get("input"))
    )
