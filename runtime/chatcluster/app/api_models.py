"""Bodies, queries and answers of the server API as pydantic models; ``docs/openapi.json`` comes from them.

Unknown keys are refused: a misspelt option must not be silently ignored. Ids and cursors are strings of
decimal digits, as on the wire.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BULK_USERS = 10_000
"""Users of one call that adds or removes members."""

User = Annotated[str, Field(min_length=1, max_length=128, description="A user's id: the claim `sub` of its tokens.")]
Id = Annotated[str, Field(pattern=r"^\d{1,19}$", description="An id: decimal digits.")]
ClientId = Annotated[
    str, Field(description="Chosen by the caller, 1 to 64 characters: a repeat with the same one has no second effect.")
]
Role = Literal["owner", "admin", "member"]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answered(BaseModel):
    model_config = ConfigDict(frozen=True)


class CreateChannel(_Asked):
    """A new channel. A direct channel of the same two users is the same channel."""

    client_id: ClientId
    kind: Literal["direct", "group"] = "group"
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    creator: User | None = Field(None, description="Owner of a group; without one the first member is.")
    members: Annotated[list[User], Field(max_length=1000)] = Field(
        default=[], description="Besides the creator. More: `POST /channels/{channel}/members`."
    )


class Users(_Asked):
    """Members to add or remove. Who is there already, or is not, changes nothing."""

    users: Annotated[list[User], Field(min_length=1, max_length=BULK_USERS)]


class Publish(_Asked):
    """A message as the system or on behalf of a user, above membership and roles."""

    client_id: ClientId
    body: str
    sender: User | None = Field(None, description="On whose behalf; without one: the user `system`.")
    data: dict[str, Any] | None = None
    reply_to: Id | None = None
    after: Id | None = Field(None, description="The new message sorts after this one.")
    retry: bool = Field(False, description="True when repeated after a lost answer: recognised for 24 hours.")


class Why(_Asked):
    """Told to the user's sessions as they are closed."""

    reason: Annotated[str, Field(max_length=100)] = ""


class MembersQuery(_Asked):
    page: Annotated[str, Field(max_length=256)] | None = Field(None, description="From the answer before.")


class MessagesQuery(_Asked):
    before: Id | None = Field(None, description="The newest messages below this id; without both: of all.")
    after: Id | None = Field(None, description="The oldest messages above this id.")
    limit: Annotated[int, Field(ge=1)] | None = None


class Nothing(_Asked):
    """No parameters."""


class ChannelMade(_Answered):
    channel: str


class MembersChanged(_Answered):
    channel: str
    done: int = Field(description="Users that are now as asked for.")


class Published(_Answered):
    """The message is durable."""

    channel: str
    id: str
    time: str
    duplicate: bool = Field(description="A repeat: this id was given before.")


class Channel(_Answered):
    id: str
    kind: Literal["direct", "group"]
    name: str | None
    creator: str
    created: str
    members: int
    route: Literal["inbox", "channel"]
    head: str | None = Field(description="Id of the newest message.")


class Member(_Answered):
    user: str
    role: Role


class Members(_Answered):
    members: list[Member]
    page: str | None = Field(None, description="Ask again with it; missing on the last page.")


class Message(_Answered):
    id: str
    channel: str
    sender: str
    client_id: str
    time: str
    body: str
    data: dict[str, Any] | None = None
    reply_to: str | None = None
    edited: str | None = None
    deleted: bool | None = None
    reactions: dict[str, list[str]] | None = None


class Messages(_Answered):
    messages: list[Message] = Field(description="Ascending by id.")
    more: bool
    complete: bool = Field(description="False: the newest ones may not be readable yet.")
    reason: str | None = None


class Disconnected(_Answered):
    """The user's sessions are being closed; they may come back with the same token."""

    user: str


class Revoked(_Answered):
    """Tokens issued before this time are refused, and their sessions end within 5 s."""

    user: str
    before: str


class Problem(_Answered):
    """An answered no. `code` is one of the protocol's error codes."""

    code: str
    message: str
    retryable: bool
    field: str | None = None
    retry_after_ms: int | None = None
    done: int | None = Field(None, description="Of a bulk call: users that are as asked for; repeat the call.")


class Error(_Answered):
    error: Problem
