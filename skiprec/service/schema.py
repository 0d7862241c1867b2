"""The bodies of requests and answers, as the OpenAPI page shows them."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)


def _integer(value: Any) -> Any:
    """In JSON, 2.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[StrictInt, BeforeValidator(_integer)]
Id = Annotated[StrictStr | Integer, Field(union_mode="left_to_right")]
# The first wrong item ends the check: a body of nothing else would make thousands of errors.
Items = Annotated[list[Id], Field(fail_fast=True)]


MAX_FOUND = 100


class Body(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RecommendRequest(Body):
    """Histories, and what is wanted for each."""

    histories: list[Items] = Field(
        min_length=1,
        description="Items of each user, the oldest first, by the ids of the data that the model "
        "was trained on. Of a long history the newest items are read.",
        examples=[[["milk", "bread"], []]],
    )
    k: Integer = Field(10, ge=1, description="Length of each list.")
    exclude_seen: StrictBool = Field(True, description="Whether items of the history are left out.")
    allow: Items | None = Field(
        None, description="The only items that may be recommended. Default: all."
    )
    deny: Items | None = Field(None, description="Items that are never recommended. Default: none.")
    keep: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="Share of the blocks that may run on average; the policy chooses for whom. "
        "Default: as the model was trained, or as the controller of the load decides.",
    )
    explain: StrictBool = Field(
        False,
        description="Whether the answer names the blocks that ran and the time of each part.",
    )
    names: StrictBool = Field(False, description="Whether the answer has the names of the items.")


class Milliseconds(Body):
    """Where the time of a request went."""

    waiting: float = Field(description="Until the executor began.")
    executor: float = Field(description="In the call of the executor, which others may share.")
    policy: float | None = Field(None, description="Of the call, in the policy; with `explain`.")
    blocks: float | None = Field(None, description="Of the call, in the blocks; with `explain`.")
    head: float | None = Field(None, description="Of the call, in the head; with `explain`.")
    total: float = Field(description="From the last byte of the request to the answer.")


class Result(Body):
    """The list of one history."""

    items: list[str] = Field(description="Ids, the best first.")
    scores: list[float]
    names: list[str | None] | None = Field(
        None, description="Names of the items; with `names`. An item without one has null."
    )
    unknown: list[str] = Field(description="Ids of the history that the model does not know.")
    source: Literal["model", "popularity"] = Field(
        description="`popularity` for a history without a known item."
    )
    read: int = Field(description="Number of items that the model read, the newest ones.")
    kept_blocks: list[int] | None = Field(None, description="Blocks that ran; with `explain`.")
    ms: Milliseconds


class RecommendAnswer(Body):
    """The lists, in the order of the histories."""

    model: str = Field(description="Name and version of the model that answered.")
    keep: float | None = Field(
        description="Share of blocks that runs on average at this setting, on validation rows. "
        "Null: as the model was trained."
    )
    results: list[Result]


class Problem(Body, frozen=True):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where, such as `histories.0.3`.")
    expected: str
    found: str


class ErrorAnswer(Body):
    """Why a request has no answer."""

    error: str
    problems: list[Problem] = []


class Item(Body):
    """An item of the model."""

    id: str
    name: str | None
    count: int = Field(description="How often it occurs in the training rows.")


class ItemsRequest(Body):
    """Items that are asked for by their ids."""

    ids: Items = Field(max_length=MAX_FOUND, description="Ids of the data.")


class ItemsAnswer(Body):
    """Items, the most frequent first."""

    items: list[Item]


class ReloadRequest(Body):
    """A model that shall answer from now on."""

    folder: StrictStr = Field(min_length=1, description="An exported model, on the server's disk.")


class ModelAnswer(Body):
    """The model that answers now."""

    model: str
    backbone: str
    policy: str
    blocks: int
    window: int
    items: int
    executor: str
    curve: list[dict[str, float]] = Field(
        description="Accuracy on validation rows by the share of blocks that run."
    )
    made_by: dict[str, Any]
