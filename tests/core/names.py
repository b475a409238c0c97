"""Names that users, operators and attackers give to instances, inboxes and contacts."""

from hypothesis import strategies as st

ADVERSARIAL = (
    "a",
    "A",
    "a:",
    ":a",
    "a:b",
    "a::b",
    "a*",
    "*",
    "?",
    "a?",
    "[ab]",
    "[^a]",
    "[a-z]",
    "{x}",
    "{a}:b",
    "%",
    "%%",
    "%3A",
    "%3a",
    "%253A",
    "a%3Ab",
    "%bindings",
    "%accounts",
    "\\",
    "\\*",
    "a\\",
    "..",
    "../a",
    "a/b",
    " ",
    " a",
    "a ",
    "loja São João",
    "loja Sa\u0303o Joa\u0303o",
    "\u00e9",
    "e\u0301",
    "متجر",
    "\u202ea",
    "a\u200b",
    "😀",
    "👩‍👩‍👧",
    "\ufeffa",
    "\ufffd",
    "a\x00",
    "a\n",
    "a\r\n",
    "\x1b[2J",
    "\x7f",
    "\x80",
    "\x85",
    "\x9f",
    "\u2028",
    "a:message",
    "a:message:1",
    "message",
    "message:1",
    "1",
    "1:messages",
    "a:conversation:1:messages",
    "source",
    "contact",
    "conversation",
    "chatwoot",
    "a:chatwoot",
    "5511900000042@s.whatsapp.net",
    "120363000000000001@g.us",
    "é" * 127,
)

_TROUBLE = ":*?[]{}%\\^-!/ \x00\n\x7f\x80\x85\x9fab1é😀\u0301\u202e"


def names(*, min_size: int = 1) -> st.SearchStrategy[str]:
    """Names of 1 to 255 bytes of UTF-8, most of them unkind."""
    unkind = st.text(st.sampled_from(_TROUBLE), min_size=min_size, max_size=8)
    anything = st.text(st.characters(codec="utf-8"), min_size=min_size, max_size=40)
    return st.one_of(st.sampled_from(ADVERSARIAL), unkind, anything)


def prefixes() -> st.SearchStrategy[str]:
    """What `CACHE_REDIS_PREFIX_KEY` may be: no glob characters, no percent, nothing invisible."""
    return st.sampled_from(["chatwoot-cache", "evolution", "a", "a:b", "São João", "😀"])
