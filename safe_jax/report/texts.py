"""Texts as a page shows them: what cannot be seen, or turns what is around it, is spelt out."""

import re

# Control characters, lone surrogates (of file names that are no UTF-8), and what embeds, overrides
# or isolates a direction. Tabs and ends of lines stay, as do the marks of Arabic and Hebrew.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text, with escapes as Python has them for what cannot be seen; it is valid UTF-8."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
