"""What L01's exercises stand on: words split as the library splits them, and texts that hold what they say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from course.lessons.l01_tokens.byte_level import SYMBOLS, split_words, to_bytes, to_symbols
from course.lessons.l01_tokens.texts import FAMILY, NOT_PROSE, NOTICE, handbook, shop_conversation

# Signs on which word patterns differ: clitics, kinds of white space, digits that are no ASCII, marks, joiners.
AWKWARD = "ab'sdtmrelv019 \n\t\r\x0b\x1c\x85\xa0\u2028\u3000.,_-²½Ⅷéñя中あ한न्" + FAMILY


def test_byte_symbols_are_the_librarys_alphabet() -> None:
    assert sorted(SYMBOLS) == sorted(ByteLevel.alphabet())
    every_byte = bytes(range(256))
    assert to_bytes(to_symbols(every_byte)) == every_byte


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=AWKWARD, max_size=14))
def test_words_are_the_librarys(text: str) -> None:
    theirs = [word for word, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]
    assert [to_symbols(word.encode()) for word in split_words(text)] == theirs
    assert "".join(split_words(text)) == text


def test_words_of_the_lessons_texts_are_the_librarys() -> None:
    for text in (*NOTICE.values(), *NOT_PROSE.values()):
        theirs = [word for word, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]
        assert [to_symbols(word.encode()) for word in split_words(text)] == theirs


def test_the_handbook_says_where_each_fact_stands() -> None:
    text, spans = handbook(20, seed=3)
    facts = [text[start:end] for start, end in spans]
    assert len(facts) == 20
    assert all(fact.startswith("On day ") and fact.endswith(".") and text.count(fact) == 1 for fact in facts)


def test_the_shops_conversation_alternates_and_names_the_customer_once() -> None:
    messages = shop_conversation("Hannah")
    roles = [message["role"] for message in messages]
    assert roles == ["system", *["user", "assistant"] * 10, "user"]
    assert sum("Hannah" in message["content"] for message in messages) == 1
