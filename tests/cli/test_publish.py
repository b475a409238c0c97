"""What could not be published is told, and not for ever."""

from pathlib import Path

from tests.cli.conftest import Program


async def test_a_file_of_something_else_is_told_in_a_few_lines(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("s3cret\n" * 1000)
    done = await program("publish", "list.txt")
    first, *_, last = done.err.splitlines()

    assert (done.code, done.out) == (1, "Published 0 events.\n")
    assert first == "chatwoot-cache: list.txt:1: not a JSON object"
    assert last == "chatwoot-cache: and 990 more like these"
    assert "s3cret" not in done.err
