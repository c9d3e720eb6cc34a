"""From a request to the token ids that an engine will use, so that prefixes can be looked up exactly.

:mod:`.tokeniser` is the seam; :mod:`.prompt` reads requests, :mod:`.conversation`, :mod:`.content_format` and
:mod:`.template` render chats, :mod:`.cutting`, :mod:`.cache` and :mod:`.encoder` tokenise, :mod:`.folder` and
:mod:`.byte_model` know models. What is exact and what is not: docs/concepts/tokens.md.
"""
