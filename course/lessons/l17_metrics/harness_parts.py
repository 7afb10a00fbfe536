"""Pieces of lm-eval that the exercises are compared with: its own classes, with as little around them as they allow.

Importing this module imports lm_eval, which takes about 5 seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.huggingface import HFLM


class PiecesLM(TemplateLM):
    """lm-eval's base class over a tokenizer that is a plain function; it encodes and has no model."""

    def __init__(self, encode: Callable[[str], list[int]], prefix_id: int) -> None:
        super().__init__()
        self._encode, self._prefix_id = encode, prefix_id

    @property
    def eot_token_id(self) -> int:
        """Also the prefix where there is no context."""
        return self._prefix_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text."""
        return self._encode(string)

    def encoded(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """What lm-eval would hand to a model for this pair."""
        from lm_eval.api.instance import Instance

        request = Instance("loglikelihood", {}, (context, continuation), 0)
        return tuple(self.loglikelihood([request], disable_tqdm=True)[0])

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
        return [(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Not needed here."""
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Not needed here."""
        raise NotImplementedError


class GivenAnswers(LM):
    """A model whose log-likelihoods are known: {(context, continuation): value}."""

    def __init__(self, values: Mapping[tuple[str, str], float]) -> None:
        super().__init__()
        self.values = values

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """The known values; no continuation counts as greedy."""
        return [(self.values[request.args], False) for request in requests]

    def loglikelihood_rolling(self, requests: Any) -> Any:
        """Not needed here."""
        raise NotImplementedError

    def generate_until(self, requests: Any) -> Any:
        """Not needed here."""
        raise NotImplementedError


def tiny_harness_model(model: Any) -> HFLM:
    """lm-eval's HFLM around a model that gets token ids only; its tokenizer knows the digits and no more."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    quiet()
    return HFLM(pretrained=model, tokenizer=wrapped, batch_size=4)


def quiet() -> None:
    """Warnings of lm-eval about choices that are meant."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def build_task(config: Mapping[str, Any], splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """lm-eval's task of a YAML file's fields, with its documents given in memory in place of a file."""
    from datasets import Dataset, DatasetDict  # type: ignore[attr-defined]
    from lm_eval.api.task import ConfigurableTask

    quiet()
    documents = DatasetDict({name: Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()})
    fields = {name: value for name, value in config.items() if not name.startswith("dataset_")}
    return ConfigurableTask(config={**fields, "custom_dataset": lambda **_: documents})


def requests_of(
    task: Any, num_fewshot: int = 0, render: Callable[..., str] | None = None, seed: int = 0
) -> list[list[str]]:
    """[context, continuation] of every request that the harness would send, in order.

    render: a chat template as `apply_chat_template(messages, add_generation_prompt=...)` gives it; None: plain text.
    """
    task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(seed)
    task.build_all_requests(
        apply_chat_template=render is not None,
        chat_template=render,
        fewshot_as_multiturn=True,
        system_instruction=None,
        tokenizer_name="",
    )
    return [list(instance.args) for instance in task.instances]
