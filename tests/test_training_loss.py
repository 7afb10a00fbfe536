"""The toolkit's loss is the usual loss: labels, shared beginnings, micro-batches, transformers' and TRL's figures."""

from __future__ import annotations

import pytest
import torch
from tiny_chat import END_ID, chat, chats, tiny_llama, tiny_tokenizer

from course.training import IGNORED, EncodingError, RowTooLongError, TrainingConfig, add_adapter, encode, encode_rows
from course.training.batching import answer_loss_sum, make_batch, shared_prefix_model
from course.training.loop import optimizer_step


def padded(rows):
    """The ordinary batch: right-padded with the end token, hidden by the attention mask and never by its id."""
    longest = max(len(row.input_ids) for row in rows)
    fill = [longest - len(row.input_ids) for row in rows]
    return {
        "input_ids": torch.tensor([[*r.input_ids, *[END_ID] * n] for r, n in zip(rows, fill, strict=True)]),
        "labels": torch.tensor([[*r.labels, *[IGNORED] * n] for r, n in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(r.input_ids) + [0] * n for r, n in zip(rows, fill, strict=True)]),
    }


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def encoded(count):
    return encode_rows(chats(count), tiny_tokenizer(), 200).rows


def test_only_the_answer_and_its_end_token_are_labelled():
    tokenizer = tiny_tokenizer()
    row = encode(chat("2 + 2?", "four"), tokenizer, 100)
    labelled = [label for label in row.labels if label != IGNORED]
    assert tokenizer.decode(labelled) == "four<|im_end|>"
    assert labelled[-1] == END_ID == tokenizer.pad_token_id
    assert row.labels[-len(labelled) :] == row.input_ids[-len(labelled) :]
    assert (
        tokenizer.decode(row.input_ids) == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>"
    )


def test_every_answer_of_a_longer_chat_is_labelled():
    tokenizer = tiny_tokenizer()
    row = encode([*chat("a", "yes"), *chat("b", "no")], tokenizer, 200)
    assert tokenizer.decode([label for label in row.labels if label != IGNORED]) == "yes<|im_end|>no<|im_end|>"
    whole = tokenizer.apply_chat_template([*chat("a", "yes"), *chat("b", "no")], tokenize=False).rstrip()
    assert tokenizer.decode(row.input_ids) == whole


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_loss_and_gradients_equal_transformers_own(share_prefixes):
    rows = encoded(6)
    model = tiny_llama()
    with shared_prefix_model(model):
        batch = make_batch(rows, share_prefixes)
        ours = answer_loss_sum(model, batch) / len(batch.answers)
        ours.backward()
    got = gradients(model)
    model.zero_grad()
    theirs = model(**padded(rows)).loss
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, gradient in gradients(model).items():
        # Sums of some hundred float32 terms in another order.
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_shared_beginnings_are_computed_once_and_nothing_is_padded():
    rows = encoded(6)
    shared, apart = make_batch(rows), make_batch(rows, share_prefixes=False)
    assert apart.tokens == shared.tokens == sum(len(row.input_ids) for row in rows)
    assert apart.input_ids.numel() == apart.tokens - len(rows)  # a row's last token predicts nothing
    beginnings = {row.input_ids[:end] for row in rows for end in range(1, len(row.input_ids))}
    assert shared.input_ids.numel() == len(beginnings)
    assert shared.input_ids.numel() < apart.tokens < padded(rows)["input_ids"].numel()


def test_the_models_own_attention_comes_back():
    model = tiny_llama()
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), shared_prefix_model(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5])
def test_accumulation_weighs_every_token_alike(micro_batch_size):
    rows = encoded(7)
    updates = []
    for size in (7, micro_batch_size):
        config = TrainingConfig(micro_batch_size=size, batch_size=7, rank=2)
        model = add_adapter(tiny_llama(), config)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        with shared_prefix_model(model):
            loss, norm = optimizer_step(model, optimizer, rows, config, 1.0, torch.device("cpu"))
        seen = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        updates.append((loss, norm, seen))
    torch.testing.assert_close(updates[0], updates[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_loss_equals_trls(tmp_path):
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    rows = encoded(6)
    model = tiny_llama()
    with shared_prefix_model(model), torch.no_grad():
        batch = make_batch(rows)
        ours = answer_loss_sum(model, batch) / len(batch.answers)
    data = datasets.Dataset.from_list([{"input_ids": list(r.input_ids), "labels": list(r.labels)} for r in rows])
    settings = trl.SFTConfig(output_dir=str(tmp_path), bf16=False, report_to="none", use_cpu=True)
    trainer = trl.SFTTrainer(model, settings, train_dataset=data, processing_class=tiny_tokenizer())
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert int((batch["labels"] != IGNORED).sum()) == sum(row.answer_tokens for row in rows)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_a_row_without_an_answer_is_named():
    with pytest.raises(EncodingError, match=r"Row 1 .*role \"assistant\""):
        encode_rows([chat("a", "b"), chat("c")], tiny_tokenizer(), 100)


def test_an_empty_answer_is_refused():
    with pytest.raises(EncodingError, match="message 1 is an empty answer"):
        encode(chat("a", " "), tiny_tokenizer(), 100)


def test_rows_too_long_are_left_out_and_counted():
    tokenizer = tiny_tokenizer()
    with pytest.raises(RowTooLongError, match="max_length is 40"):
        encode(chat("a", "b" * 50), tokenizer, 40)
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        kept = encode_rows([chat("a", "b"), chat("a", "b" * 50)], tokenizer, 60)
    assert (len(kept.rows), kept.dropped) == (1, 1)
    with pytest.raises(EncodingError, match="all 1 have more than max_length=5"):
        encode_rows([chat("a", "b")], tokenizer, 5)


def test_a_template_that_never_ends_an_answer_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + (
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(EncodingError, match="not a special token"):
        encode(chat("a", "b"), tokenizer, 100)


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(EncodingError, match="renders the messages before message 1 differently"):
        encode(chat("a", "b"), tokenizer, 100)
