"""The texts by which edits and reactions are recognized."""

import pytest

from worker.core.history.evolution_text import (
    has_edit_marker,
    is_one_emoji,
    participant_label,
    without_edit_marker,
)

LABELS = ["Mensagem editada", "Edited Message", "Mensaje editado"]


@pytest.mark.parametrize("label", LABELS)
def test_an_edit_is_recognized_in_every_language(label: str) -> None:
    text = f"\n\n`{label}:`\n\nCinco caixas\n\n`a:`\n\nb"

    assert has_edit_marker(text)
    assert without_edit_marker(text) == "Cinco caixas\n\n`a:`\n\nb"


@pytest.mark.parametrize(
    "text",
    [
        "`Edited Message:`\n\nx",
        "\n\n`Edited Message`\n\nx",
        "\n\n`Edited\nMessage:`\n\nx",
        "\n\nEdited Message:\n\nx",
        "\n\n`Edited Message:` x",
        "x\n\n`Edited Message:`\n\nx",
        "",
    ],
)
def test_any_other_text_is_no_edit(text: str) -> None:
    """WhatsApp sends no message that begins with empty lines."""
    assert not has_edit_marker(text)
    assert without_edit_marker(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "👍",
        "👍🏽",
        "❤️",
        "❤",
        "😂",
        "🙏🏿",
        "👨‍👩‍👧‍👦",
        "🏳️‍🌈",
        "🇧🇷",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "1️⃣",
        "✅",
        "⭐",
        "🫶🏼",
        "🥹",
    ],
)
def test_one_emoji(text: str) -> None:
    assert is_one_emoji(text)


@pytest.mark.parametrize(
    "text",
    [None, "", "a", "1", "👍👍", "👍 ", "ok 👍", "🇧", "\u200d", "\ufe0f", "👍" * 50, ":)", "🏽"],
)
def test_no_emoji_alone(text: str | None) -> None:
    assert not is_one_emoji(text)


def test_the_participant_of_a_group_message() -> None:
    assert participant_label("**+55 11 90000 0042 - Marina:**\n\nOi!\n\n**b:**\n\n") == (
        "**+55 11 90000 0042 - Marina:**\n\n"
    )
    assert participant_label("**Oi**\n\nMarina") == ""
