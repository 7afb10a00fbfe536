"""Clean rows, drop exact copies, and split by group, so that a test question's group was never trained on.

A group's split follows from a hash of its name, so new rows and new groups never move an old one. One worked number:
with 468 database schemas and a tenth held out, about 47 groups land in the test split, give or take 6.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from typing import Any

import pandas

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-clean-and-split",
    title="Clean rows and split them by group",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("data", "reproducibility"),
    hints=(
        "The order of the steps matters: clean, then drop what is empty, then look for copies, then split. Each step "
        "relies on what the one before has made equal.",
        "Two keys are needed: one that says when two rows are the same, and one that decides the split. Ask for each "
        "what must be in it and what must not.",
        "hashlib.sha256 takes bytes and its digest() gives bytes; int.from_bytes turns eight of them into a number.",
    ),
    library_note="scikit-learn's GroupShuffleSplit draws the groups with a random generator: it also keeps groups "
    "whole, but one new group reshuffles all of them, and yesterday's test rows turn up in today's training rows. "
    "Hashing names is what large pipelines do (TensorFlow Datasets, BigQuery's FARM_FINGERPRINT recipe).",
    interview="How did you split your data, and what would have leaked if you had split it row by row?",
)

FIELDS = ("group", "question", "answer")


@exercise.reference
def clean_and_split(rows: list[dict[str, str]], held_out: float, salt: str) -> dict[str, list[dict[str, str]]]:
    """Clean rows in two splits, every group whole in one of them.

    rows: each has the texts "group", "question" and "answer", and no other key.
    held_out: the share of groups, from 0 to 1, that is meant for the test split.
    salt: a text that names this split; another salt gives another split.

    1. Clean every text: Unicode normal form NFC, then white space at both ends removed.
    2. Leave out rows in which any of the three texts is empty now; in step 3 they do not count as earlier rows.
    3. Leave out copies: a row is a copy if an earlier row of any group has the same answer, and the same question when
       compared with str.casefold and with every run of white space taken as one space. (Same question, other answer: no
       copy. In answers, and in the groups of step 4, capitals and inner spaces matter.) The first row stays, its texts
       as cleaned in step 1.
    4. Split: read the first 8 bytes of SHA-256 of the UTF-8 text salt + "/" + group (as cleaned) as a whole number,
       most significant byte first, and divide by 2**64. Below held_out the group's rows go to "test", else to "train".

    Returns {"train": [...], "test": [...]}, rows in the given order, as new dicts with the three texts.
    """
    splits: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    seen = set()
    for row in rows:
        clean = {field: unicodedata.normalize("NFC", row[field]).strip() for field in ("group", "question", "answer")}
        identity = (" ".join(clean["question"].casefold().split()), clean["answer"])
        if not all(clean.values()) or identity in seen:
            continue
        seen.add(identity)
        digest = hashlib.sha256(f"{salt}/{clean['group']}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        splits["test" if share < held_out else "train"].append(clean)
    return splits


@exercise.alternative
def with_pandas(rows, held_out, salt):
    table = pandas.DataFrame(rows, columns=list(FIELDS), dtype=object)
    for field in FIELDS:
        table[field] = [unicodedata.normalize("NFC", text).strip() for text in table[field]]
    table = table[(table != "").all(axis=1)]
    table["said"] = [" ".join(text.casefold().split()) for text in table["question"]]
    table = table.drop_duplicates(["said", "answer"], keep="first")
    numbers = [int(hashlib.sha256(f"{salt}/{group}".encode()).hexdigest()[:16], 16) for group in table["group"]]
    table["side"] = ["test" if number < held_out * 2**64 else "train" for number in numbers]
    return {side: table.loc[table["side"] == side, list(FIELDS)].to_dict("records") for side in ("train", "test")}


def share_of(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def said(text: str) -> str:
    return " ".join(text.casefold().split())


def variant(rows: Any, held_out: float, salt: str, clean: Any = None, key: Any = None, **other: Any) -> Any:
    """The same steps with another way to clean a text, to name a row's copies, or to choose the test rows.

    other: `test` chooses by row, `choose` from all rows at once; `blank` keeps blank rows, `filled` says which fields
    must not be blank; `overwrite` puts a later copy in the first one's place.
    """
    clean = clean or (lambda text: unicodedata.normalize("NFC", text).strip())
    key = key or (lambda row: (said(row["question"]), row["answer"]))
    test = other.get("test", lambda row: share_of(f"{salt}/{row['group']}") < held_out)
    kept: dict[Any, Any] = {}
    for row in rows:
        cleaned = {field: clean(row[field]) for field in FIELDS}
        if other.get("blank") or all(cleaned[field].strip() for field in other.get("filled", FIELDS)):
            kept[key(cleaned)] = cleaned if other.get("overwrite") else kept.get(key(cleaned), cleaned)
    chosen = list(kept.values())
    for_test = other["choose"](chosen) if "choose" in other else [test(row) for row in chosen]
    pairs = list(zip(chosen, for_test, strict=True))
    return {"train": [row for row, held in pairs if not held], "test": [row for row, held in pairs if held]}


@exercise.misconception(
    hint="Rows are split one by one, by a hash of the question. Then one group's rows stand on both sides, and the "
    "test measures memory of the group. Hash what the rows of a group have in common."
)
def split_row_by_row(rows, held_out, salt):
    return variant(rows, held_out, salt, test=lambda row: share_of(f"{salt}/{row['question']}") < held_out)


@exercise.misconception(
    hint="The last rows became the test split, whatever group they belong to. The split has to follow from the group's "
    "name alone."
)
def last_rows_held_out(rows, held_out, salt):
    def last(chosen):
        return [number >= len(chosen) * (1 - held_out) for number in range(len(chosen))]

    return variant(rows, held_out, salt, choose=last)


@exercise.misconception(
    hint="Groups are drawn with a random generator. They stay whole, but one new group changes the draw for all "
    "others. A hash of the name, as in step 4, never moves an old group."
)
def groups_drawn_at_random(rows, held_out, salt):
    def drawn(chosen):
        groups = sorted({row["group"] for row in chosen})
        held = set(random.Random(salt).sample(groups, round(len(groups) * held_out)))
        return [row["group"] in held for row in chosen]

    return variant(rows, held_out, salt, choose=drawn)


@exercise.misconception(
    hint="Each group's side is drawn with a random generator, one after the other. Then it depends on which groups "
    "came before: one new group in front moves all others. Step 4 asks for a hash of the name."
)
def sides_drawn_one_by_one(rows, held_out, salt):
    def drawn(chosen):
        draw, names = random.Random(salt), dict.fromkeys(row["group"] for row in chosen)
        sides = {group: draw.random() < held_out for group in names}
        return [sides[row["group"]] for row in chosen]

    return variant(rows, held_out, salt, choose=drawn)


@exercise.misconception(
    hint="The salt has no effect: every split of this data would be the same one. It belongs into the text that is "
    "hashed."
)
def salt_forgotten(rows, held_out, salt):
    return variant(rows, held_out, salt, test=lambda row: share_of(row["group"]) < held_out)


@exercise.misconception(
    hint="The two splits are the wrong way round: groups whose number is below held_out belong to the test split."
)
def splits_swapped(rows, held_out, salt):
    splits = variant(rows, held_out, salt)
    return {"train": splits["test"], "test": splits["train"]}


@exercise.misconception(
    hint="A copy in another group is not found, so the same question and answer can stand in training and test. Copies "
    "are looked for across all groups."
)
def copies_within_a_group_only(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (row["group"], said(row["question"]), row["answer"]))


@exercise.misconception(
    hint="A row is dropped because its question occurred before, though its answer is another one. Question and answer "
    "together make a copy."
)
def copies_by_question_alone(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: said(row["question"]))


@exercise.misconception(
    hint="Questions that differ only in capital letters or in the number of spaces count as different. Compare them in "
    "the form that step 3 describes."
)
def copies_letter_by_letter(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (row["question"], row["answer"]))


@exercise.misconception(
    hint="The rows come back in small letters and with single spaces. That form is for comparing only; what is kept is "
    "the text as cleaned in step 1."
)
def compared_form_returned(rows, held_out, salt):
    splits = variant(rows, held_out, salt)
    return {name: [row | {"question": said(row["question"])} for row in part] for name, part in splits.items()}


@exercise.misconception(
    hint="Texts are not put into normal form: an e with an accent can be one character or two, and both look the same "
    "on the screen. unicodedata.normalize makes them equal."
)
def accents_left_as_they_came(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=str.strip)


@exercise.misconception(
    hint="White space at the ends of the texts is still there. A group called 'gym ' is then another one than 'gym'."
)
def ends_not_stripped(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=lambda text: unicodedata.normalize("NFC", text))


@exercise.misconception(
    hint="Rows with an empty answer (or question, or group) are still there; some are empty only once the white space "
    "is gone, so look after cleaning."
)
def blank_rows_kept(rows, held_out, salt):
    return variant(rows, held_out, salt, blank=True)


@exercise.misconception(
    hint="Rows with the same question and answers that differ in capital letters count as copies. Only the question is "
    "compared loosely: in an answer every letter may matter."
)
def answers_compared_loosely(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (said(row["question"]), said(row["answer"])))


@exercise.misconception(
    hint="The eight bytes are read with the least significant one first. int.from_bytes wants to be told: big."
)
def bytes_the_other_way(rows, held_out, salt):
    def little(row):
        digest = hashlib.sha256(f"{salt}/{row['group']}".encode()).digest()
        return int.from_bytes(digest[:8], "little") / 2**64 < held_out

    return variant(rows, held_out, salt, test=little)


@exercise.misconception(
    hint="The slash between salt and group is missing in the text that is hashed, so salt 'a' with group 'bc' would be "
    "salt 'ab' with group 'c'."
)
def slash_forgotten(rows, held_out, salt):
    return variant(rows, held_out, salt, test=lambda row: share_of(salt + row["group"]) < held_out)


@exercise.misconception(
    hint="The group's name is hashed as it came, before it was cleaned: the same group written in two ways can land on "
    "both sides."
)
def uncleaned_group_hashed(rows, held_out, salt):
    raw = {unicodedata.normalize("NFC", row["group"]).strip(): row["group"] for row in rows}
    return variant(rows, held_out, salt, test=lambda row: share_of(f"{salt}/{raw[row['group']]}") < held_out)


@exercise.misconception(
    hint="A row with an empty group is still there. Step 2 speaks of all three texts, the group's too."
)
def empty_group_kept(rows, held_out, salt):
    return variant(rows, held_out, salt, filled=("question", "answer"))


@exercise.misconception(
    hint="A later copy takes the first row's place, with its own group and spelling. The first one stays as it is."
)
def later_copy_overwrites(rows, held_out, salt):
    return variant(rows, held_out, salt, overwrite=True)


@exercise.misconception(hint="Of several copies the last one is kept. The first one stays, where it stands.")
def last_copy_kept(rows, held_out, salt):
    return {name: part[::-1] for name, part in variant(rows[::-1], held_out, salt).items()}


@exercise.misconception(
    hint="Texts are decomposed (NFD or NFKD: letter and accent apart). NFC is the form in which an accented letter is "
    "one character."
)
def decomposed(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=lambda text: unicodedata.normalize("NFKD", text).strip())


@exercise.misconception(
    hint="A blank row counts as the first of its kind, and the good row after it is dropped as a copy. Leave blank "
    "rows out before you look for copies."
)
def blank_rows_count_as_first(rows, held_out, salt):
    splits = variant(rows, held_out, salt, blank=True)
    return {name: [row for row in part if all(row.values())] for name, part in splits.items()}


@exercise.misconception(
    hint="Questions are compared with str.lower. In some scripts that is not enough (ß and SS, for one); str.casefold "
    "is made for comparing."
)
def lower_is_not_casefold(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (" ".join(row["question"].lower().split()), row["answer"]))


@exercise.misconception(
    hint="NFKC rewrites characters that only look alike: a raised 2 becomes a plain one, and m² reads m2. NFC changes "
    "nothing that can be seen."
)
def compatibility_form(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=lambda text: unicodedata.normalize("NFKC", text).strip())


@exercise.misconception(hint="Group and salt are joined in the wrong order. Salt, slash, group.")
def group_before_salt(rows, held_out, salt):
    return variant(rows, held_out, salt, test=lambda row: share_of(f"{row['group']}/{salt}") < held_out)


@exercise.misconception(
    hint="Capital letters in questions are folded, but runs of white space are not taken as one space: two questions "
    "that differ in a double space count as different."
)
def inner_spaces_kept(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (row["question"].casefold(), row["answer"]))


@exercise.misconception(
    hint="White space in questions is evened out, but capital letters make two questions different. Step 3 names a "
    "method for that."
)
def capitals_compared(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (" ".join(row["question"].split()), row["answer"]))


@exercise.misconception(
    hint="Eight hexadecimal digits are four bytes. Step 4 reads eight bytes, which are sixteen digits."
)
def four_bytes_read(rows, held_out, salt):
    def first_four(row):
        digest = hashlib.sha256(f"{salt}/{row['group']}".encode()).hexdigest()
        return int(digest[:8], 16) / 2**64 < held_out

    return variant(rows, held_out, salt, test=first_four)


@exercise.misconception(
    hint="Groups are ordered by their number and the first share of them held out. Then a new group can push an old "
    "one across; compare each number with held_out itself."
)
def exact_share_of_groups(rows, held_out, salt):
    def lowest(chosen):
        groups = sorted({row["group"] for row in chosen}, key=lambda group: share_of(f"{salt}/{group}"))
        return [row["group"] in groups[: round(len(groups) * held_out)] for row in chosen]

    return variant(rows, held_out, salt, choose=lowest)


@exercise.misconception(
    hint="Runs of white space in answers are taken as one space too. Only the question is compared loosely: in an "
    "answer every character may matter."
)
def answers_spaces_evened(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (said(row["question"]), " ".join(row["answer"].split())))


@exercise.misconception(
    hint="All white space is taken out of questions before comparing, so 'a part' equals 'apart'. A run of white space "
    "becomes one space."
)
def question_spaces_removed(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: ("".join(said(row["question"]).split()), row["answer"]))


@exercise.misconception(
    hint="Only spaces are evened out in questions. White space is also the tab, the newline and others."
)
def only_blanks_evened(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (re.sub(" +", " ", row["question"].casefold()), row["answer"]))


@exercise.misconception(
    hint="Two spaces are replaced by one, once. Of a run of three or more, or of tabs and newlines, more is left."
)
def double_spaces_replaced(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (row["question"].casefold().replace("  ", " "), row["answer"]))


@exercise.misconception(
    hint="Only spaces are taken off the ends of the texts. White space is also the tab, the newline and others."
)
def only_blanks_stripped(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=lambda text: unicodedata.normalize("NFC", text).strip(" "))


@exercise.misconception(
    hint="Inner white space is evened out in the texts that you return. That form of a question is for comparing only; "
    "cleaning touches the ends."
)
def inner_spaces_cleaned(rows, held_out, salt):
    return variant(rows, held_out, salt, clean=lambda text: " ".join(unicodedata.normalize("NFC", text).split()))


@exercise.misconception(
    hint="Groups are folded to small letters before the hash. Step 4 takes the name as cleaned in step 1: Gym and gym "
    "are two groups."
)
def group_folded(rows, held_out, salt):
    return variant(rows, held_out, salt, test=lambda row: share_of(f"{salt}/{row['group'].casefold()}") < held_out)


@exercise.misconception(
    hint="Inner white space of a group's name is evened out before the hash. Step 4 takes it as cleaned in step 1."
)
def group_spaces_evened(rows, held_out, salt):
    return variant(
        rows, held_out, salt, test=lambda row: share_of(f"{salt}/{' '.join(row['group'].split())}") < held_out
    )


@exercise.misconception(
    hint="Answers are not put into normal form. Step 1 cleans all three texts; two spellings of an accent make two "
    "different answers otherwise."
)
def answers_not_normalised(rows, held_out, salt):
    return per_field(rows, held_out, salt, answer=str.strip)


@exercise.misconception(hint="The white space at an answer's ends is still there. Step 1 cleans all three texts.")
def answers_not_stripped(rows, held_out, salt):
    return per_field(rows, held_out, salt, answer=lambda text: unicodedata.normalize("NFC", text))


def per_field(rows: Any, held_out: float, salt: str, answer: Any) -> Any:
    """The same steps with another way to clean the answers."""
    marked = [row | {"answer": "answer:" + answer(row["answer"])} for row in rows if row["answer"].strip()]
    splits = variant(marked, held_out, salt, clean=lambda text: text if text.startswith("answer:") else nfc(text))
    return {name: [row | {"answer": row["answer"][7:]} for row in part] for name, part in splits.items()}


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


@exercise.misconception(
    hint="The rows come back as they were given. What is kept is the texts as cleaned in step 1, not only compared so."
)
def uncleaned_rows_returned(rows, held_out, salt):
    splits = variant(rows, held_out, salt)
    raw: dict[tuple[str, ...], Any] = {}
    for row in rows:
        raw.setdefault(tuple(nfc(row[field]) for field in FIELDS), dict(row))
    return {name: [raw[tuple(row.values())] for row in part] for name, part in splits.items()}


@exercise.misconception(
    hint="Copies are looked for within each split only, so the same row can stand in training and in test. Drop copies "
    "before you split."
)
def copies_within_a_split_only(rows, held_out, salt):
    def key(row):
        return share_of(f"{salt}/{row['group']}") < held_out, said(row["question"]), row["answer"]

    return variant(rows, held_out, salt, key=key)


@exercise.misconception(
    hint="Copies are told by the question as it came, before the normal form. Two spellings of an accent then hide one."
)
def compared_before_cleaning(rows, held_out, salt):
    kept, seen = [], set()
    for row in rows:
        key = said(row["question"]), row["answer"].strip()
        if all(row[field].strip() for field in FIELDS) and key not in seen:
            kept.append(row)
            seen.add(key)
    return variant(kept, held_out, salt, key=id)


@exercise.misconception(
    hint="You take the remainder of the number by 100 (or 1,000). Step 4 divides by 2**64, which gives a share from 0 "
    "to 1."
)
def remainder_instead_of_share(rows, held_out, salt):
    def bucket(row):
        digest = hashlib.sha256(f"{salt}/{row['group']}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % 100 < held_out * 100

    return variant(rows, held_out, salt, test=bucket)


@exercise.misconception(hint="The last eight bytes of the hash are read. Step 4 takes the first eight.")
def last_bytes_read(rows, held_out, salt):
    def last(row):
        digest = hashlib.sha256(f"{salt}/{row['group']}".encode()).digest()
        return int.from_bytes(digest[-8:], "big") / 2**64 < held_out

    return variant(rows, held_out, salt, test=last)


@exercise.misconception(
    hint="Questions are compared in capitals. str.upper makes letters equal that are not, such as the Turkish ı and "
    "i; str.casefold is made for comparing."
)
def capitals_are_not_casefold(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (" ".join(row["question"].upper().split()), row["answer"]))


@exercise.misconception(
    hint="Questions are compared in the form NFKC, in which m² and m2 are the same. Step 3 evens out case and "
    "white space, and nothing else."
)
def compared_in_compatibility_form(rows, held_out, salt):
    return variant(
        rows, held_out, salt, key=lambda row: (said(unicodedata.normalize("NFKC", row["question"])), row["answer"])
    )


@exercise.misconception(
    hint="Questions are compared without their accents, so café equals cafe. Normal form makes two spellings of one "
    "letter equal; the accent stays."
)
def compared_without_accents(rows, held_out, salt):
    def bare(text):
        return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))

    return variant(rows, held_out, salt, key=lambda row: (said(bare(row["question"])), row["answer"]))


@exercise.misconception(
    hint="Questions are compared without their punctuation. Step 3 evens out case and white space, and nothing else."
)
def compared_without_punctuation(rows, held_out, salt):
    return variant(rows, held_out, salt, key=lambda row: (said(re.sub(r"[^\w\s]", "", row["question"])), row["answer"]))


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)
    names = words.sample(["gym", "hotel", "café", "zoo", "bank", "school", "farm", "museum", "harbour", "clinic"], 8)
    salt = f"split {words.randint(1, 999)}"

    def row(group: str, question: str, answer: str = "SELECT 1") -> dict[str, str]:
        return {"group": group, "question": question, "answer": answer}

    def case(name: str, about: str, rows: list[Any], held_out: float = 0.5, visible: bool = True, salt=salt) -> Case:
        return Case(name, {"rows": rows, "held_out": held_out, "salt": salt}, about, visible=visible)

    def telling_salt(one: str, other: str) -> str:
        """A salt that puts the two groups on different sides when half is held out."""
        salts = (f"{salt}.{number}" for number in range(1000))
        return next(s for s in salts if (share_of(f"{s}/{one}") < 0.5) != (share_of(f"{s}/{other}") < 0.5))

    plain = [row(group, f"Question {number} about the {group}?") for number in range(3) for group in names[:6]]
    asked = f"How many {words.choice(('rooms', 'animals', 'boats'))} are there?"
    copies = [
        row(names[0], asked),
        row(names[1], asked),
        row(names[2], asked.upper()),
        row(names[3], asked, "SELECT 2"),
    ]
    copies += [row(names[4], asked.replace(" ", "  ", 1)), row(names[5], f"{asked} Today?"), row(names[6], asked)]
    copies += [row(names[0], "Wie groß ist es?"), row(names[1], "WIE GROSS IST ES?"), *plain[:6]]
    copies += [row(names[1], f"{asked} Or not?", "SELECT a"), row(names[2], f"{asked} Or not?", "SELECT A")]
    blank = [row(names[0], "  ", "SELECT 3"), row(names[1], "Why?", "\n"), row(" \t", "Who?"), row(names[2], "Who?")]
    blank += plain[:6]
    accents = [
        row("café", "Is the cre\u0300me old?"),
        row("cafe\u0301", "Is the cr\u00e8me old?"),
        row("cafe\u0301", "A?"),
    ]
    accents += [row(names[0], "How many m² in all?"), *plain[:6]]
    messy = [row(f" {group}\n", f"Number {number} ? ", f"SELECT {number} ") for number, group in enumerate(names)]
    twins = [row(names[0], text) for text in ("Is it a part?", "Is it apart?", "is\u2003it\n apart?", "Is it   apart?")]
    twins += [row(names[n], "Which?", answer) for n, answer in enumerate(("a  b", "a b", "cre\u0300me", "cr\u00e8me"))]
    twins += [
        row(names[7], text) for text in ("How many m²?", "How many m2?", "A café?", "A cafe?", "A cafe", "Bı?", "BI?")
    ]
    twins += [row(names[5], "Is  it\tnew?"), row(names[6], "is it new?")]
    capitals, spaced = (
        [row(change(name), f"Is {name} so?") for name in names] for change in (str.upper, "a  {}".format)
    )
    return [
        case("six groups", "on clean rows of six groups", plain),
        case("copies", "when questions are repeated, in other groups too", copies),
        case("blanks", "when texts are blank", blank),
        case("accents", "when accents are written in two ways", accents),
        case("untidy", "when texts have white space at their ends", messy),
        case("twins", "when texts are nearly the same", twins),
        case(
            "capitals", "when groups are written in capitals", capitals, salt=telling_salt(names[0].upper(), names[0])
        ),
        case(
            "inner spaces", "when groups hold two spaces", spaced, salt=telling_salt(f"a  {names[0]}", f"a {names[0]}")
        ),
        case("all held out", "when everything is held out", plain[:4], held_out=1.0, visible=False),
        case("eight groups", "when a tenth is held out", [*plain, *messy], held_out=0.1, visible=False),
        case("together", "on all of it at once", [*copies, *accents, *plain, *blank, *messy], 0.4, visible=False),
        case("nothing held out", "when nothing is held out", plain[:4], held_out=0.0, visible=False),
        case("no rows", "when there are no rows", [], visible=False),
    ]


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], **inputs: Any) -> str | None:
    """A group that stands on both sides, by name."""
    groups = {name: {row["group"] for row in part} for name, part in got.items()}
    if both := sorted(groups["train"] & groups["test"]):
        return f"The group {both[0]!r} stands in both splits"
    belongs = {row["group"]: name for name, part in want.items() for row in part}
    for group in sorted(groups["train"] | groups["test"]):
        if group in belongs and group not in groups[belongs[group]]:
            share = share_of(f"{inputs['salt']}/{group}")
            below = f"held_out is {inputs['held_out']}, so it belongs to {belongs[group]}"
            return f"The group {group!r} has the number {share:.3f} and {below}"
    return None
