"""The reads' description for programs, built once; the documents' shapes come from the model."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

import msgspec

from worker import __version__
from worker.core.chat_format import ChatTurn
from worker.core.document_views import Origin
from worker.core.documents import Conversation, Message
from worker.core.stream_entry import MAX_ID
from worker.reads import read_request

PATH: Final = b"/openapi.json"

_REF: Final = "#/components/schemas/{name}"
_ID: Final = {"type": "integer", "minimum": 1, "maximum": MAX_ID}


def _parameter(
    name: str, description: str, schema: Mapping[str, Any], *, place: str = "query"
) -> dict[str, Any]:
    required = place == "path" or name == "source_id"
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": schema,
    }


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": r"^[^\x00]+$"}


_INSTANCE: Final = _parameter(
    "instance", "Evolution instance, escaped by %.", _text(read_request.NAME_BYTES), place="path"
)
_IN_PATH: Final = _parameter("id", "Chatwoot's id.", _ID, place="path")
_CONTACT: Final = _parameter(
    "contact",
    "JID (…@s.whatsapp.net, …@lid, …@g.us), or phone number with or without +.",
    _text(read_request.ID_BYTES),
    place="path",
)
_PRIVATE: Final = _parameter(
    "private", "Private notes too; only for the key that reads all.", {"type": "boolean"}
)
_SOURCE: Final = _parameter(
    "source_id", "WAID:… or WhatsApp's bare id of the message.", _text(read_request.ID_BYTES)
)
_LIST: Final = (
    _parameter(
        "limit",
        "How many messages, newest; oldest where only `after` is given.",
        {
            "type": "integer",
            "minimum": 1,
            "maximum": read_request.MAX_LIMIT,
            "default": read_request.DEFAULT_LIMIT,
        },
    ),
    _parameter("before", "Only messages before this id.", _ID),
    _parameter("after", "Only messages after this id.", _ID),
    _PRIVATE,
    _parameter(
        "format",
        "`chat`: an array of role and content, for a language model.",
        {"type": "string", "enum": ["json", "chat"], "default": "json"},
    ),
    _parameter(
        "wait_for",
        "Wait until this message is in the cache: Chatwoot's id, or WhatsApp's.",
        _text(read_request.ID_BYTES),
    ),
    _parameter(
        "wait_ms",
        "How long to wait.",
        {
            "type": "integer",
            "minimum": 0,
            "maximum": read_request.MAX_WAIT_MS,
            "default": read_request.DEFAULT_WAIT_MS,
        },
    ),
)


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(
        [Message, Conversation, ChatTurn], ref_template=_REF
    )
    origin = {"enum": [*get_args(Origin), None], "description": "Who wrote the message."}
    schemas["Message"]["properties"]["origin"] = origin
    schemas["Message"]["required"].append("origin")
    schemas["Page"] = {
        "type": "object",
        "required": ["conversation_id", "messages", "complete", "next_before", "human_active"],
        "properties": {
            "conversation_id": _ID,
            "messages": {"type": "array", "items": _ref("Message")},
            "complete": {
                "type": "boolean",
                "description": "The cache knows the conversation from its start.",
            },
            "next_before": {"anyOf": [_ID, {"type": "null"}]},
            "human_active": {
                "type": "boolean",
                "description": "Somebody is assigned, or an agent wrote within the hour.",
            },
            "read_through": {
                "type": "string",
                "enum": ["fetched", "missing", "failed"],
                "description": "What became of asking Chatwoot for what the cache does not have;"
                " after `failed`, this is what the cache has.",
            },
            "arrived": {
                "type": "boolean",
                "description": "Whether the message of `wait_for` is in the cache.",
            },
        },
    }
    schemas["Error"] = {
        "type": "object",
        "required": ["error", "reason"],
        "properties": {"error": {"type": "string"}, "reason": {"type": "string"}},
    }
    return schemas


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _operation(
    summary: str, parameters: Iterable[Mapping[str, Any]], *schemas: Mapping[str, Any]
) -> dict[str, Any]:
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    refused = {
        "401": "No key, or a wrong one.",
        "403": "The key does not open this.",
        "404": "Not in the cache.",
        "422": "A parameter cannot be used.",
        "503": "Redis cannot be read now.",
    }
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {
                "200": _response("Found.", schema),
                **{code: _response(text, _ref("Error")) for code, text in refused.items()},
            },
        }
    }


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_PAGE: Final = (_ref("Page"), {"type": "array", "items": _ref("Turn")})

DOCUMENT: Final = msgspec.json.encode(
    {
        "openapi": "3.1.0",
        "info": {"title": "chatwoot-cache", "version": __version__},
        "security": [{"apikey": []}, {"bearer": []}],
        "paths": {
            "/instances/{instance}/messages/{id}": _operation(
                "A message", (_INSTANCE, _IN_PATH, _PRIVATE), _ref("Message")
            ),
            "/instances/{instance}/messages": _operation(
                "A message by its source id", (_INSTANCE, _SOURCE, _PRIVATE), _ref("Message")
            ),
            "/instances/{instance}/conversations/{id}": _operation(
                "A conversation", (_INSTANCE, _IN_PATH), _ref("Conversation")
            ),
            "/instances/{instance}/conversations/{id}/messages": _operation(
                "Messages of a conversation, oldest first", (_INSTANCE, _IN_PATH, *_LIST), *_PAGE
            ),
            "/instances/{instance}/contacts/{contact}/messages": _operation(
                "Messages of a contact's newest conversation, oldest first",
                (_INSTANCE, _CONTACT, *_LIST),
                *_PAGE,
            ),
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
