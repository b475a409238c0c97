"""Fake of Chatwoot 4: inboxes, webhooks, conversations and messages, by a user's token."""

import hashlib
import hmac
import itertools
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from tests.fakes.http import FakeServer, Reply, Request
from tests.fakes.rows import ConversationRow, Json, MessageRow

Role = Literal["administrator", "agent"]

_PATH = re.compile(r"/api/v1/accounts/(\d+)/(\w+)(?:/(\d+))?(/messages)?")
_A_PAGE = 25
_MESSAGES_A_PAGE = 20


class Chatwoot(FakeServer):
    """Accounts and their users; `signs` is whether webhooks have a secret (since 4.11.2)."""

    def __init__(self, *, signs: bool = True) -> None:
        super().__init__(self._answer)
        self.signs = signs
        self.users: dict[str, dict[int, Role]] = {"admin-token": {3: "administrator"}}
        self.inboxes: dict[int, list[Json]] = defaultdict(list)
        self.webhooks: dict[int, list[Json]] = defaultdict(list)
        self.conversations: dict[int, list[ConversationRow]] = defaultdict(list)
        self._ids = itertools.count(1)

    def add_inbox(
        self,
        inbox_id: int,
        name: str,
        webhook_url: str | None = None,
        *,
        account_id: int = 3,
        channel: str = "Channel::Api",
    ) -> Json:
        """Add an inbox."""
        inbox: Json = {
            "id": inbox_id,
            "avatar_url": "",
            "channel_id": inbox_id,
            "name": name,
            "channel_type": channel,
            "greeting_enabled": False,
            "working_hours_enabled": False,
            "enable_auto_assignment": True,
            "additional_attributes": {},
        }
        if channel == "Channel::Api":
            inbox |= {"webhook_url": webhook_url, "inbox_identifier": f"identifier-{inbox_id}"}
        self.inboxes[account_id].append(inbox)
        return inbox

    def add_conversation(self, row: ConversationRow) -> ConversationRow:
        """Add a conversation."""
        self.conversations[row.account_id].append(row)
        return row

    def signed(self, account_id: int, payload: bytes) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the URL of each webhook of an account, and the headers for a body."""
        for webhook in self.webhooks[account_id]:
            stamp = str(int(time.time()))
            headers = {"Content-Type": "application/json", "X-Chatwoot-Delivery": "d"}
            if self.signs:
                signed = hmac.new(
                    webhook["secret"].encode(), f"{stamp}.".encode() + payload, hashlib.sha256
                )
                headers |= {
                    "X-Chatwoot-Timestamp": stamp,
                    "X-Chatwoot-Signature": f"sha256={signed.hexdigest()}",
                }
            yield webhook["url"], headers

    def _answer(self, request: Request) -> Reply:
        user = self.users.get(request.headers.get("api_access_token", ""))
        matched = _PATH.fullmatch(request.path)
        if matched is None:
            return Reply(404, b"<html>The page you were looking for doesn't exist.</html>")
        role = (user or {}).get(int(matched[1]))
        if role is None:
            why = (
                "You are not authorized to access this account" if user else "Invalid Access Token"
            )
            return Reply(401, {"error": why})
        return self._answer_user(request, role, *matched.groups())

    def _answer_user(
        self,
        request: Request,
        role: Role,
        account_id: str,
        what: str,
        number: str | None,
        messages: str | None,
    ) -> Reply:
        match what:
            case "inboxes":
                return Reply(200, {"payload": self.inboxes[int(account_id)]})
            case "webhooks":
                return self._of_webhooks(request, int(account_id), number, role)
            case "conversations" if number:
                return self._conversation(request, int(account_id), int(number), bool(messages))
            case "conversations":
                return self._list(request, int(account_id))
        return Reply(404, {"error": "Resource could not be found"})

    def _of_webhooks(
        self, request: Request, account_id: int, number: str | None, role: Role
    ) -> Reply:
        if role != "administrator":
            return Reply(403, {"error": "You are not authorized to do this action"})
        webhooks = self.webhooks[account_id]
        if request.method == "GET":
            return Reply(200, {"payload": {"webhooks": webhooks}})
        body = request.body["webhook"]
        changed = next((w for w in webhooks if str(w["id"]) == number), None)
        if any(w["url"] == body["url"] and w is not changed for w in webhooks):
            return Reply(422, {"message": "Url has already been taken"})
        if changed is None:
            changed = {"id": next(self._ids), "name": None, "account_id": account_id}
            changed |= {"secret": f"secret-{account_id}-{changed['id']}"} if self.signs else {}
            webhooks.append(changed)
        changed |= body
        return Reply(200, {"payload": {"webhook": changed}})

    def _list(self, request: Request, account_id: int) -> Reply:
        page = int(request.query.get("page", 1))
        rows = [
            row
            for row in self.conversations[account_id]
            if str(row.inbox_id) == request.query.get("inbox_id", str(row.inbox_id))
            and request.query.get("status", "open") in ("all", row.status)
        ]
        rows.sort(key=lambda row: row.activity_us, reverse=True)
        shown = [row.rest() for row in rows[_A_PAGE * (page - 1) : _A_PAGE * page]]
        meta = {"mine_count": 0, "unassigned_count": len(rows), "all_count": len(rows)}
        return Reply(200, {"data": {"meta": meta, "payload": shown}})

    def _conversation(
        self,
        request: Request,
        account_id: int,
        number: int,
        messages: bool,  # noqa: FBT001  (parsed from the path)
    ) -> Reply:
        row = next((r for r in self.conversations[account_id] if r.id == number), None)
        if row is None:
            return Reply(404, {"error": "Resource could not be found"})
        if not messages:
            return Reply(200, row.rest())
        listed = [message.rest(row) for message in _page(row.messages, request)]
        return Reply(200, {"meta": {"labels": []}, "payload": listed})


def _page(messages: list[MessageRow], request: Request) -> list[MessageRow]:
    by_time = sorted(messages, key=lambda message: message.created_us)
    before = int(request.query.get("before", 2**62))
    after = int(request.query.get("after", 0))
    if "after" in request.query and "before" in request.query:
        return [m for m in by_time if after <= m.id < before][:1000]
    if "after" in request.query:
        return [m for m in by_time if m.id > after][:100]
    return [m for m in by_time if m.id < before][-_MESSAGES_A_PAGE:]


def encoded(body: Json) -> bytes:
    """A body as Chatwoot encodes it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
