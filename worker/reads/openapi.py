"""The OpenAPI description of the reads, built once from the parameters and the document types."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import msgspec
from msgspec import UNSET, UnsetType

from worker import __version__
from worker.chatwoot.read_through import Result
from worker.core.chatwoot_event import Id
from worker.core.documents import Conversation, Message
from worker.core.history.chat_format import ChatTurn
from worker.core.history.human_activity import HumanActivity
from worker.core.history.message_origin import Origin
from worker.reads.read_request import (
    NAME_BYTES,
    PARAMETERS,
    ReadKind,
    Schema,
    integer_schema,
    text_schema,
)

PATH: Final = b"/openapi.json"

_REF: Final = "#/components/schemas/{name}"

_PAGE: Final = msgspec.defstruct(
    "Page",
    [
        ("conversation_id", Id),
        ("messages", list[Message]),
        ("complete", bool),
        ("next_before", Id | None),
        ("human_active", bool),
        ("human", HumanActivity),
        ("read_through", Result | UnsetType, UNSET),
        ("arrived", bool | UnsetType, UNSET),
    ],
)
_PAGE_DESCRIPTIONS: Final = {
    "complete": "The cache has the conversation from its start.",
    "human_active": "The same as `human.active`.",
    "human": "Whether a person is assigned, or wrote to the contact within `human_window_s`, in a"
    " conversation that is not resolved.",
    "read_through": "Result of fetching from Chatwoot what the cache does not have; after"
    " `failed`, the page holds what the cache has.",
    "arrived": "Whether the message of `wait_for` is in the cache.",
}
_LINKS: Final[Mapping[str, Schema]] = {
    "in_reply_to": {
        **integer_schema("The message of this conversation that it replies to, if cached."),
        "type": ["integer", "null"],
    },
    "reaction": {"const": True, "description": "One emoji, in reply to a message."},
    "edits": integer_schema("The message whose text it replaces."),
    "edited": {"const": True, "description": "Another message replaces its text; in lists."},
}
_ORIGIN: Final = (
    "Who wrote the message: `agent` typed it in Chatwoot, `bot` is of Chatwoot, `phone` typed it in"
    " WhatsApp, `api` sent it through Evolution; null for activity messages."
)
_ERROR: Final = msgspec.defstruct("Error", [("error", str), ("reason", str)])

_PATH_PARAMETERS: Final[Mapping[str, Schema]] = {
    "instance": text_schema("Evolution instance, percent-encoded.", NAME_BYTES),
    "id": integer_schema("Chatwoot id."),
    "contact": text_schema("JID (…@s.whatsapp.net, …@lid, …@g.us), or phone number."),
}
_ERRORS: Final = {
    "401": "No key, or a wrong key.",
    "403": "The key does not permit this.",
    "404": "Not in the cache.",
    "422": "A parameter is invalid.",
    "503": "Redis is unavailable.",
}


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(
        [Message, Conversation, ChatTurn, _PAGE, _ERROR], ref_template=_REF
    )
    schemas["Turn"] = {**schemas.pop("ChatTurn"), "title": "Turn"}
    for name, description in _PAGE_DESCRIPTIONS.items():
        schemas["Page"]["properties"][name]["description"] = description
    origin = {"enum": [*get_args(Origin), None], "description": _ORIGIN}
    schemas["Message"]["properties"]["origin"] = origin
    schemas["Message"]["properties"].update(_LINKS)
    schemas["Message"]["required"] += ("origin", "in_reply_to")
    return schemas


def _operation(kind: ReadKind, path: str, summary: str, *schemas: Schema) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "parameters": list(_parameters(kind, path)),
            "responses": {
                "200": _response("Found.", {"anyOf": schemas} if len(schemas) > 1 else schemas[0]),
                **{code: _response(text, _ref("Error")) for code, text in _ERRORS.items()},
            },
        }
    }


def _parameters(kind: ReadKind, path: str) -> Iterator[dict[str, Any]]:
    for name, schema in _PATH_PARAMETERS.items():
        if f"{{{name}}}" in path:
            yield _parameter(name, "path", schema, required=True)
    for name, schema in PARAMETERS[kind].items():
        yield _parameter(name, "query", schema, required=name == "source_id")


def _parameter(name: str, place: str, schema: Schema, *, required: bool) -> dict[str, Any]:
    description = schema["description"]
    head = {"name": name, "in": place, "required": required, "description": description}
    return {**head, "schema": schema}


def _response(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


_PAGES: Final = (_ref("Page"), {"type": "array", "items": _ref("Turn")})
_OPERATIONS: Final[list[tuple[ReadKind, str, str, tuple[Schema, ...]]]] = [
    ("message", "/messages/{id}", "A message", (_ref("Message"),)),
    ("source", "/messages", "A message by its source id", (_ref("Message"),)),
    ("conversation", "/conversations/{id}", "A conversation", (_ref("Conversation"),)),
    (
        "messages",
        "/conversations/{id}/messages",
        "Messages of a conversation, oldest first",
        _PAGES,
    ),
    (
        "contact",
        "/contacts/{contact}/messages",
        "Messages of a contact's newest conversation, oldest first",
        _PAGES,
    ),
]

DOCUMENT: Final = msgspec.json.encode(
    {
        "openapi": "3.1.0",
        "info": {"title": "chatwoot-cache", "version": __version__},
        "security": [{"apikey": []}, {"bearer": []}],
        "paths": {
            (path := f"/instances/{{instance}}{end}"): _operation(kind, path, summary, *schemas)
            for kind, end, summary, schemas in _OPERATIONS
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }
)
