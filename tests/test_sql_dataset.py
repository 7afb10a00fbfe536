"""The `sql` dataset as committed: sound, rebuilt to the byte, and each fault of it refused in a clear sentence."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest

from course.sql import load_examples, load_schema, load_schemas
from course.sql.examples import normal_question, read_jsonl
from course.sql.generate import ROWS_PER_SCHEMA, Generator, generate, main
from course.sql.leakage import heldout_names, leaks, names_in
from course.sql.schemas import DATA_FOLDER, DataError, schema_from_dict
from course.sql.stability import result_problem
from course.sql.validate import (
    checksum_problems,
    count_problems,
    gold_problems,
    id_problems,
    problems_in,
    rebuild_problems,
)
from course.sql.variants import vary


@pytest.fixture(scope="module")
def train():
    return load_examples("train")


@pytest.fixture(scope="module")
def test_set():
    return load_examples("test")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DATA_FOLDER, tmp_path / "sql")


def test_committed_dataset_is_sound():
    assert problems_in() == []


def test_three_schemas_are_held_out_and_share_no_name_with_training(train):
    heldout = [s for s in load_schemas().values() if s.split == "heldout"]
    assert len(heldout) == 3
    kept_out = heldout_names(load_schemas().values())
    assert {"artifacts", "vessels", "megawatts"} <= kept_out
    assert not any(names_in(e.schema_text) & kept_out for e in train)


def test_no_test_question_is_a_training_question(train, test_set):
    asked = {normal_question(e.question) for e in train}
    assert not [e.id for e in test_set if normal_question(e.question) in asked]


def test_half_of_the_training_rows_show_a_database_the_course_does_not_ship(train):
    shipped = {s.text for s in load_schemas().values()}
    share = sum(e.schema_text not in shipped for e in train) / len(train)
    assert 0.4 < share < 0.6
    assert len({e.schema_text for e in train} - shipped) > 400


def test_training_rows_come_in_runs_about_one_database(train):
    runs = [train[start : start + ROWS_PER_SCHEMA] for start in range(0, len(train), ROWS_PER_SCHEMA)]
    alike = sum(len({row.schema_text for row in run}) == 1 for run in runs)
    assert alike / len(runs) > 0.95


def test_every_kind_is_in_both_splits(train, test_set):
    wanted = {"count", "aggregate", "superlative", "distinct", "group", "having", "join", "between", "null", "like"}
    assert wanted <= {e.kind for e in train}
    assert wanted <= {e.kind for e in test_set}


def test_same_seed_same_rows_other_seed_other_rows():
    assert generate(3, 40) == generate(3, 40)
    assert generate(3, 40) != generate(4, 40)


def test_secret_seed_makes_a_hidden_set_over_both_kinds_of_schema(tmp_path, train):
    out = tmp_path / "hidden.jsonl"
    main(["--seed", "991", "--rows", "60", "--out", str(out), "--split", "hidden"])
    hidden = load_examples(str(out))
    assert len(hidden) == 60
    assert {e.split for e in hidden} == {"seen", "heldout"}
    assert gold_problems(hidden) == []
    assert not {normal_question(e.question) for e in hidden} & {normal_question(e.question) for e in train}


def test_load_examples_filters_by_split_and_schema():
    assert {e.schema for e in load_examples("heldout")} == {"museum", "energy", "shipping"}
    assert {e.schema for e in load_examples("test", schemas=["gym"])} == {"gym"}
    with pytest.raises(ValueError, match="no split 'dev'; use train, test, seen, heldout"):
        load_examples("dev")
    with pytest.raises(KeyError, match="no schema is called 'zoo'; there are library"):
        load_schema("zoo")


def test_changed_file_is_named(copy):
    (copy / "schemas.json").write_text((copy / "schemas.json").read_text() + "\n")
    assert "schemas.json differs from its checksum" in checksum_problems(copy)[0]


def test_corrupted_row_is_named_with_its_line(copy):
    lines = (copy / "test.jsonl").read_text().splitlines()
    lines[4] = lines[4][:-9]
    (copy / "test.jsonl").write_text("\n".join(lines))
    assert problems_in(copy)[0].startswith("test.jsonl, line 5 is not JSON")


def test_row_without_a_query_is_named(copy):
    row = json.loads((copy / "test.jsonl").read_text().splitlines()[0])
    (copy / "test.jsonl").write_text(json.dumps({**row, "sql": ""}) + "\n")
    with pytest.raises(DataError, match=r"test.jsonl, line 1 has no sql; every row needs id"):
        load_examples("test", folder=copy)


def test_changed_training_row_is_found(copy):
    lines = (copy / "train.jsonl").read_text().splitlines()
    lines[10] = lines[10].replace("SELECT", "SELECT ")
    (copy / "train.jsonl").write_text("\n".join(lines) + "\n")
    assert "train.jsonl is not what seed 7 makes (first difference: line 11)" in rebuild_problems(copy)[0]


def test_missing_file_says_how_to_make_it(copy):
    (copy / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"train.jsonl is missing; rebuild it with: python -m course.sql.build"):
        read_jsonl(copy / "train.jsonl")


def test_leaked_question_is_found(train, test_set):
    stolen = replace(train[0], question=test_set[0].question.upper())
    found = leaks([stolen], test_set, load_schemas().values())
    assert found == [
        f"{train[0].id} asks the question of test row {test_set[0].id}; rebuild with: python -m course.sql.build"
    ]


def test_heldout_table_in_training_is_found(train, test_set):
    spoiled = replace(train[0], schema_text="vessels(id, name)")
    assert "shows vessels, kept for held-out schemas" in leaks([spoiled], test_set, load_schemas().values())[0]


def test_two_rows_with_one_id_and_too_few_rows_are_found(train):
    assert "is borne by 2 rows" in id_problems([train[0], train[0]])[0]
    assert count_problems(train[:10], [], 18)[0] == "there are 10 training rows; at least 3000 are wanted"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nme FROM members", "does not run (no such column: nme)"),
        ("SELECT name FROM members WHERE age > 900", "returns no rows"),
        ("SELECT MAX(age) FROM members WHERE age > 900", "returns only NULL"),
        ("SELECT name FROM members ORDER BY plan LIMIT 1", "depends on the order rows are stored in"),
    ],
)
def test_bad_gold_query_is_refused(test_set, sql, said):
    example = next(e for e in test_set if e.schema == "gym")
    assert said in (result_problem(load_schema("gym"), sql) or "")
    assert gold_problems([replace(example, sql=sql)])[0].startswith(f"{example.id}: ")


def test_row_of_the_wrong_width_is_refused():
    table = {"name": "t", "columns": [{"name": "a", "type": "TEXT"}], "rows": [["x"], ["y", 2]]}
    data = {"name": "s", "split": "seen", "topic": "", "joins": [], "tables": [table]}
    with pytest.raises(DataError, match="table 't', row 2 has 2 values for 1 columns"):
        schema_from_dict(data)
    with pytest.raises(DataError, match="use one of seen, heldout"):
        schema_from_dict({**data, "split": "dev"})


def test_a_variant_keeps_a_column_in_every_table():
    worlds = Generator(seed=0, split="train").seen
    for seed in range(200):
        for world in worlds:
            for table in vary(world, random.Random(seed)).schema.tables:
                assert table.columns, f"seed {seed}: {world.schema.name}'s {table.name} lost all its columns"
