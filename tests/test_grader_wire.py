"""Values cross as plain data: exactly, without methods of their own, capped, and refused with a reason."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from grader import wire

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=40)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
DTYPES = list(wire.ITEM_BYTES)


def crossed(value):
    return wire.decode(wire.loads(wire.dumps(wire.encode(value))))


def same(left, right) -> bool:
    """Equal in type too, floats to the bit except for the kind of NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return left == right


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_plain_values_come_back_the_same(value):
    assert same(crossed(value), value)


@pytest.mark.parametrize(
    "value", ["\ud800", "a\0b", 10**3000, -(2**53), 2**53 - 1, float("nan"), -math.inf, -0.0, 5e-324]
)
def test_awkward_scalars_come_back_the_same(value):
    assert same(crossed([value]), [value])


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**31))
def test_tensors_of_every_dtype_and_shape_come_back_to_the_bit(dtype, shape, seed):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    sent = made.to(getattr(torch, dtype))
    got = crossed({"x": sent})["x"]
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert torch.equal(got, sent)


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3)])
def test_numpy_arrays_come_back_to_the_bit(dtype, shape):
    sent = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    got = crossed(sent)
    assert isinstance(got, np.ndarray)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert np.array_equal(got, sent)
    got[...] = 1  # Writable, and unconnected to what was sent.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 1e-45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_special_floats_keep_their_bits(value, dtype):
    sent = torch.tensor([value], dtype=dtype)
    assert torch.equal(crossed(sent).view(torch.uint8), sent.view(torch.uint8))


@pytest.mark.parametrize(
    "sent",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[::3],
        torch.arange(4.0)[::2][:1],  # One item, stride 2.
        torch.ones(1, 3).expand(4, 3),
        torch.ones(2, 2, requires_grad=True) * 2,
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([1 + 2j]).conj().imag,  # Carries a lazy minus sign.
    ],
    ids=["transposed", "strided", "one strided", "expanded", "with a graph", "parameter", "negated"],
)
def test_tensors_however_laid_out_come_back_equal_and_detached(sent):
    got = crossed(sent)
    assert torch.equal(got, sent)
    assert type(got) is torch.Tensor
    assert not got.requires_grad


@pytest.mark.parametrize("sent", [np.arange(6).reshape(2, 3).T, np.arange(9)[::2], np.array([1.5, 2.5], dtype=">f4")])
def test_numpy_arrays_however_laid_out_come_back_equal(sent):
    assert np.array_equal(crossed(sent), sent)


@pytest.mark.parametrize(
    ("sent", "got"), [(np.float32(1.5), 1.5), (np.int64(3), 3), (np.bool_(True), True), (np.str_("a"), "a")]
)
def test_numpy_scalars_become_python_numbers(sent, got):
    assert same(crossed(sent), got)


class LyingInt(int):
    def __eq__(self, other):
        return True

    def __index__(self):
        return 99

    def __int__(self):
        return 99

    __hash__ = int.__hash__


class LyingFloat(float):
    def __eq__(self, other):
        return True

    def __float__(self):
        return 99.0

    __hash__ = float.__hash__


class LyingStr(str):
    def __eq__(self, other):
        return True

    def __str__(self):
        return "lie"

    def __iter__(self):
        return iter("lie")

    def __len__(self):
        return 0

    __hash__ = str.__hash__


class LyingBytes(bytes):
    def __len__(self):
        return 0

    def __bytes__(self):
        return b"lie"

    def __eq__(self, other):
        return True

    __hash__ = bytes.__hash__


class LyingList(list):
    def __iter__(self):
        return iter([99])

    def __len__(self):
        return 1

    def __eq__(self, other):
        return True


class LyingTuple(tuple):
    def __iter__(self):
        return iter([99])

    def __eq__(self, other):
        return True

    __hash__ = tuple.__hash__


class LyingDict(dict):
    def items(self):
        return [("lie", 99)]

    def __iter__(self):
        return iter(["lie"])

    def __getitem__(self, key):
        return 99


class LyingSet(set):
    def __iter__(self):
        return iter([99])


class LyingArray(np.ndarray):
    @property
    def shape(self):
        return (9,)

    def __array__(self, *_, **__):
        return np.full(2, 99.0)

    def tobytes(self, *_):
        return b"\0" * 16


class LyingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.full((3,), 99.0)

    def detach(self):
        return torch.full((3,), 99.0)

    @property
    def shape(self):
        return (9,)


class LyingNumpyFloat(np.float32):
    def item(self, *_):
        return 99.0


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (LyingInt(1), 1),
        (LyingFloat(1.5), 1.5),
        (LyingStr("true"), "true"),
        (LyingBytes(b"true"), b"true"),
        (LyingList([1, LyingInt(2)]), [1, 2]),
        (LyingTuple((1, 2)), (1, 2)),
        (LyingDict({LyingStr("a"): LyingInt(1)}), {"a": 1}),
        (LyingSet({3, 1}), [1, 3]),
        (LyingNumpyFloat(1.5), 1.5),
    ],
)
def test_a_subclass_is_reduced_to_its_base_type_and_its_methods_are_lost(sent, got):
    encoded = wire.encode([sent])
    assert same(encoded, [got])
    assert same(crossed([sent]), [got])


def test_a_lying_array_or_tensor_is_reduced_to_its_values():
    assert np.array_equal(crossed(np.ones(2).view(LyingArray)), np.ones(2))
    got = crossed(torch.ones(2).as_subclass(LyingTensor))
    assert type(got) is torch.Tensor
    assert torch.equal(got, torch.ones(2))


def self_containing_list():
    value: list = []
    value.append(value)
    return value


def self_containing_dict():
    value: dict = {}
    value["me"] = value
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (self_containing_list(), "Does it contain itself?"),
        (self_containing_dict(), "Does it contain itself?"),
        ([object()], r"the value\[0\] is a builtins.object, which cannot be compared. Return numbers"),
        ({"a": torch.nn.Linear(1, 1)}, r"the value\['a'\] is a torch.nn.modules.linear.Linear"),
        (1j, "complex"),
        (torch.ones(1, dtype=torch.complex64), "dtype complex64; supported are bool"),
        (np.array([object()]), "dtype object"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "dtype datetime64"),
        (np.longdouble(1), "numpy.longdouble"),
        (torch.ones(2, device="meta"), "meta device"),
        (torch.eye(2).to_sparse(), "sparse_coo tensor. Return a dense one"),
        ({1.5: 1}, "a key of type float"),
        ({True: 1}, "a key of type bool"),
        ({(1, None), (1, 2)}, "a set whose members have no order"),
        (lambda: 1, "function"),
    ],
)
def test_what_cannot_cross_is_refused_with_its_place_and_a_way_out(value, says):
    with pytest.raises(wire.WireError, match=says):
        wire.encode(value)


def test_deep_but_legal_nesting_crosses():
    value: list = []
    for _ in range(wire.MAX_DEPTH - 1):
        value = [value]
    assert same(crossed(value), value)


@pytest.mark.parametrize(
    "value", [[0] * 2000, "x" * 3000, b"x" * 3000, {"x" * 3000: 1}, torch.ones(800), np.ones(400), {*range(2000)}]
)
def test_values_over_a_cap_are_refused(value, monkeypatch):
    monkeypatch.setattr(wire, "MAX_ITEMS", 1000)
    monkeypatch.setattr(wire, "MAX_BYTES", 2500)
    with pytest.raises(wire.WireError, match="too large to check"):
        wire.encode(value)


def test_shared_parts_cannot_multiply_past_the_cap(monkeypatch):
    monkeypatch.setattr(wire, "MAX_ITEMS", 10_000)
    value: list = [0]
    for _ in range(30):
        value = [value, value]
    with pytest.raises(wire.WireError, match="too large"):
        wire.encode(value)


GOOD = wire.dumps(wire.encode({"x": torch.arange(6.0), "y": [1, "a"]}))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_damaged_bytes_are_refused_or_read_as_plain_data(place, byte, cut):
    for damaged in (GOOD[:place] + bytes([byte]) + GOOD[place + 1 :], GOOD[:cut], GOOD + GOOD[:place]):
        try:
            wire.decode(wire.loads(damaged))
        except wire.WireError:
            continue


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data):
    with pytest.raises(wire.WireError):
        wire.loads(data)


def message(tree, **arrays: bytes) -> bytes:
    named = {name: np.frombuffer(data, dtype=np.uint8) for name, data in arrays.items()}
    return save(
        named or {"none": np.zeros(0, dtype=np.uint8)}, {"tree": tree if isinstance(tree, str) else json.dumps(tree)}
    )


def array(**changes):
    return {"array": "a", "kind": "torch", "dtype": "float32", "shape": [2]} | changes


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "tree",
    [
        array(shape=[3]),
        array(shape=[-2]),
        array(shape=[2**62, 2**62]),
        array(shape="ab"),
        array(shape=None),
        array(dtype="object"),
        array(dtype="__class__"),
        array(kind="pickle"),
        array(array="absent"),
        {"array": "a"},
        {"unknown": 1},
        {},
        {"dict": [[1.5, 2]]},
        {"dict": [["a"]]},
        {"dict": [[["a"], 1]]},
        {"int": "nothing"},
        {"int": 3},
        {"float": "nothing"},
        {"float": [1]},
        {"bytes": "$$$"},
        {"bytes": 3},
        nested(60),
        nested(100_000),
        "{",
        "9" * 5000,
    ],
)
def test_a_forged_message_is_refused(tree):
    with pytest.raises(wire.WireError):
        wire.loads(message(tree, a=b"\0" * 8))


def test_a_message_cannot_name_one_array_until_memory_is_full(monkeypatch):
    monkeypatch.setattr(wire, "MAX_BYTES", 100_000)
    with pytest.raises(wire.WireError, match="too large"):
        wire.loads(message([array(shape=[1000], dtype="uint8")] * 200, a=b"\0" * 1000))


def test_a_message_cannot_hold_too_many_items(monkeypatch):
    monkeypatch.setattr(wire, "MAX_ITEMS", 1000)
    with pytest.raises(wire.WireError, match="too large"):
        wire.loads(message([0] * 2000))


def test_a_message_over_the_cap_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(wire, "MAX_BYTES", -(2**20) + 10)
    with pytest.raises(wire.WireError, match="over the cap"):
        wire.loads(b"x" * 100)
