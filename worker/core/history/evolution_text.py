"""Texts that Evolution writes into messages: the marker of an edit, a reaction, a participant."""

import re
from typing import Final

_EDIT_MARKER: Final = re.compile(r"\n\n`[^`\n]+:`\n\n")
"""Evolution's label depends on its language: ``Mensagem editada``, ``Edited Message``, …"""

_PARTICIPANT: Final = re.compile(r"\*\*[^\n]+:\*\*\n\n")
"""Before the text of each message to a group; Evolution leaves it out of an edit."""

_PICTURE: Final = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf"
    "\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa"
    "\U0001f400-\U0001faff]"
    "[\ufe0f\U0001f3fb-\U0001f3ff]*[\U000e0020-\U000e007f]*"
)
_EMOJI: Final = re.compile(
    f"{_PICTURE}(?:\u200d{_PICTURE})*|[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3"
)


def has_edit_marker(text: str | None) -> bool:
    """Say whether a text begins as that of a message edited on the phone."""
    return text is not None and text.startswith("\n\n`") and bool(_EDIT_MARKER.match(text))


def without_edit_marker(text: str) -> str:
    """Return the new text of an edited message."""
    return _EDIT_MARKER.sub("", text, count=1) if has_edit_marker(text) else text


def participant_label(text: str) -> str:
    """Return the beginning of a group message's text that names its author; else an empty text."""
    label = _PARTICIPANT.match(text)
    return label[0] if label else ""


def is_one_emoji(text: str | None) -> bool:
    """Say whether a text is a single emoji, such as a person of some skin tone, or a flag."""
    return text is not None and bool(_EMOJI.fullmatch(text))
