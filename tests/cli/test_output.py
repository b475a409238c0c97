"""Rows on a narrow terminal."""

import pytest

from worker.cli import output

LETTER = {
    "id": "1795540196261-0",
    "at": "2026-11-24T17:09:56.261+00:00",
    "reason": "instance_conflict",
    "error": "inbox 7/12 claims instance 'loja-aurora', which belongs to account 3",
}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_what_one_copies_stays_in_one_piece(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))

    output.print_rows([LETTER], list(LETTER), optional=("at",))

    shown = capsys.readouterr().out
    assert LETTER["id"] in shown
    assert (LETTER["at"] in shown) is (width == 200)
