"""Where a text may be cut so that its parts have, one after the other, exactly the tokens of the whole.

A tokenizer of the `tokenizers` library first looks for its added tokens, leftmost and longest first, and treats what is
between them separately. So a text can be cut right before an added token that nothing can reach over from the left; the
conditions are checked here, once for each tokenizer, and the tests compare tokens. Called by :mod:`.encoder`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from tokenizers import AddedToken

LEAST_CHARACTERS: Final = 512
"""Parts are at least this long: below it, looking one up costs as much as its tokens."""


def cut_tokens(candidates: Iterable[str], added: Collection[AddedToken]) -> tuple[str, ...]:
    """Those of the candidates before which any text may be cut. ``added`` are all added tokens of the tokenizer."""
    if any(token.single_word for token in added):
        return ()  # whether these match depends on their neighbours
    by_content = {token.content: token for token in added}
    known = (by_content[name] for name in dict.fromkeys(candidates) if name in by_content)
    return tuple(token.content for token in known if _is_safe(token, added))


def cut(text: str, tokens: Iterable[str]) -> list[str]:
    """The parts of a text, each but the first beginning with one of ``tokens``.

    Where a text is cut depends only on what is left of there and on the token itself: texts with a common beginning
    have common first parts, and the last part alone is open.
    """
    places = sorted(place for token in tokens for place in _places(text, token))
    parts = []
    start = 0
    for place in places:
        if place - start >= LEAST_CHARACTERS:
            parts.append(text[start:place])
            start = place
    parts.append(text[start:])
    return parts


def _is_safe(token: AddedToken, added: Collection[AddedToken]) -> bool:
    # Normalised tokens are looked for only after the others, which may then begin within them.
    if token.normalized or token.lstrip or not token.content or token.content[0].isspace():
        return False
    return not any(_reaches_over(other, token.content) for other in added if other.content != token.content)


def _reaches_over(other: AddedToken, content: str) -> bool:
    """Whether an occurrence of ``other`` could hold the place before ``content`` inside, or the blanks before it."""
    if other.lstrip and other.content.startswith(content):
        return True
    for start in range(1, len(other.content)):
        rest = other.content[start:]
        if rest.startswith(content) or content.startswith(rest):
            return True
    return False


def _places(text: str, token: str) -> Iterable[int]:
    place = text.find(token)
    while place >= 0:
        yield place
        place = text.find(token, place + len(token))
