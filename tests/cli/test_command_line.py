"""The command line itself: what it prints without a command, and for one that does not exist."""

import re

import pytest

from worker.__main__ import _COMMANDS, main


def test_without_a_command_the_help_lists_every_command_with_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stdout, with exit code 0, as docker does."""
    monkeypatch.setenv("COLUMNS", "120")

    code = main([])

    out, err = capsys.readouterr()
    listed = re.findall(r"^    (\w+)", out.partition("\ncommands:\n")[2], re.MULTILINE)
    assert (code, err) == (0, "")
    assert listed == list(_COMMANDS)
    assert "  doctor     look for what is wrong" in out


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["nonsense"])

    assert caught.value.code == 2
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err
