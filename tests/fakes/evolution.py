"""Fake of Evolution API 2: lists its instances, with the global key."""

from typing import Any
from urllib.parse import quote

from tests.fakes.http import FakeServer, Reply, Request
from tests.fakes.rows import Json


class Evolution(FakeServer):
    """Instances with their Chatwoot settings."""

    def __init__(self, apikey: str = "global-key") -> None:
        super().__init__(self._answer)
        self.apikey = apikey
        self.instances: list[Json] = []

    def add(self, name: str, **chatwoot: Any) -> None:
        """Add an instance; without Chatwoot settings it has none."""
        self.instances.append(
            {
                "id": f"id-{len(self.instances)}",
                "name": name,
                "connectionStatus": "open",
                "ownerJid": "5511900000001@s.whatsapp.net",
                "profileName": None,
                "number": None,
                "integration": "WHATSAPP-BAILEYS",
                "token": "instance-token",
                "clientName": "evolution",
                "createdAt": "2026-09-01T12:00:00.000Z",
                "Chatwoot": _chatwoot(name, chatwoot) if chatwoot else None,
                "Setting": {"rejectCall": False},
                "_count": {"Message": 10, "Contact": 2, "Chat": 2},
            }
        )

    def webhook_url(self, name: str) -> str:
        """The webhook URL it writes into an inbox, encoded by `encodeURIComponent`."""
        return f"http://evolution:8080/chatwoot/webhook/{quote(name, safe='!*()' + chr(39))}"

    def _answer(self, request: Request) -> Reply:
        if request.path != "/instance/fetchInstances":
            return Reply(404, {"status": 404, "error": "Not Found", "response": {"message": []}})
        if request.headers.get("apikey") != self.apikey:
            return Reply(401, {"status": 401, "error": "Unauthorized", "response": {}})
        return Reply(200, self.instances)


def _chatwoot(name: str, settings: Json) -> Json:
    return {
        "enabled": True,
        "accountId": "3",
        "token": "admin-token",
        "url": "https://chat.exemplo.test",
        "nameInbox": name,
        "signMsg": False,
        "signDelimiter": "\n",
        "number": "5511900000001",
        "reopenConversation": True,
        "conversationPending": False,
        "mergeBrazilContacts": True,
        "importContacts": True,
        "importMessages": True,
        "daysLimitImportMessages": 7,
        "organization": "",
        "logo": "",
        "ignoreJids": [],
        **settings,
    }
