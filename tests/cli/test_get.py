"""What cannot be asked for is told apart from what is not there."""

import pytest

from tests.cli.conftest import Program


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "message", "1"], "INSTANCE must be 1 to 255 bytes"),
        (["loja", "message", "-1"], "'-1' is no id of Chatwoot's"),
        (["loja", "conversation", "9" * 23], "is no id of Chatwoot's"),
        (["loja", "messages", "1", "--limit", "201"], "--limit must be 1 to 200"),
    ],
)
async def test_wrong_use_is_told(program: Program, arguments: list[str], said: str) -> None:
    done = await program("get", *arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err


async def test_what_is_not_cached_is_1(program: Program) -> None:
    done = await program("get", "loja", "message", "1")

    assert (done.code, done.err) == (1, "chatwoot-cache: the cache of 'loja' has no message 1\n")
