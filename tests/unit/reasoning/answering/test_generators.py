"""Answers cite the facts they are made from."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.reasoning.endpoint_helpers import Server

from vectuned.reasoning import errors
from vectuned.reasoning.answering.facts import Fact
from vectuned.reasoning.answering.generators import ChatGenerator, ExtractiveGenerator
from vectuned.reasoning.answering.knowledge import Question
from vectuned.reasoning.embedding.endpoint import Endpoint

FACTS = (
    Fact("A poodle is a dog.", "entity", (1,), "entity n1"),
    Fact("A dog barks.", "relation", (2, 3), "relationship of n2"),
)


def chat_reply(text: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def test_chat_generator_keeps_only_sentences_that_cite_facts(model_server: Server) -> None:
    generator = ChatGenerator(Endpoint(model_server.url, 2), "tiny")
    model_server.reply = chat_reply("Poodles are dogs [1]. Cats are better. They bark [2, 7]. They fly [9].")
    answer = generator.write(Question("What is a poodle?"), FACTS)
    assert answer.text == "Poodles are dogs [1]. They bark [2, 7]."
    assert [citation.number for citation in answer.citations] == [1, 2]
    assert answer.citations[1].source == "relationship of n2"
    assert answer.generator == "model tiny"
    asked = model_server.requests[0][2]
    assert asked["model"] == "tiny"
    assert "[2] A dog barks." in asked["messages"][1]["content"]
    for text in ("I know it all.", "See [9].", "", None):
        model_server.reply = chat_reply(text)
        with pytest.raises(errors.UngroundedError):
            generator.write(Question("What is a poodle?"), FACTS)
    model_server.reply = {"error": "no such model"}
    with pytest.raises(errors.GeneratorUnreachableError, match="a reply without choices"):
        generator.write(Question("What is a poodle?"), FACTS)


def test_extractive_generator_cites_every_sentence() -> None:
    answer = ExtractiveGenerator().write(Question("What is a poodle?"), FACTS)
    assert answer.text == "A poodle is a dog. [1] A dog barks. [2]"
    assert [citation.ids for citation in answer.citations] == [(1,), (2, 3)]
    assert ExtractiveGenerator().write(Question("What?"), ()).citations == ()
