"""The base of every validated record."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A validated record. It is immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
