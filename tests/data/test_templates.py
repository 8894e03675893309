import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rm_toolkit.data.templates import (
    arrange,
    common_prompt,
    messages_to_text,
    prompt_digest,
    split_turns,
    text_to_messages,
    wrap,
)


HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"


@pytest.mark.parametrize(
    ("texts", "prompt"),
    [
        ([f"{HUMAN}Hi{ASSISTANT} Yes", f"{HUMAN}Hi{ASSISTANT} No"], f"{HUMAN}Hi{ASSISTANT}"),
        # A beginning that two answers share is not part of the prompt.
        ([f"{HUMAN}Hi{ASSISTANT} The one", f"{HUMAN}Hi{ASSISTANT} The other"], f"{HUMAN}Hi{ASSISTANT}"),
        # If the dialogues diverge before the last turn, the rest of each belongs to its completion.
        (
            [f"{HUMAN}Hi{ASSISTANT} Yes{HUMAN}Go{ASSISTANT} A", f"{HUMAN}Hi{ASSISTANT} No{HUMAN}Go{ASSISTANT} B"],
            f"{HUMAN}Hi{ASSISTANT}",
        ),
        # If they diverge in a human turn, the shared prompt ends before it.
        (
            [f"{HUMAN}Hi{ASSISTANT} Yes{HUMAN}a{ASSISTANT} A", f"{HUMAN}Hi{ASSISTANT} Yes{HUMAN}b{ASSISTANT} B"],
            f"{HUMAN}Hi{ASSISTANT} Yes",
        ),
        ([f"{HUMAN}Hi{ASSISTANT} same"] * 2, f"{HUMAN}Hi{ASSISTANT}"),
        ([f"{HUMAN}Hi{ASSISTANT} a{HUMAN}x{ASSISTANT} y", f"{HUMAN}Hi{ASSISTANT} a"], f"{HUMAN}Hi{ASSISTANT}"),
        ([f"{HUMAN}Hi{ASSISTANT} Yes", f"{HUMAN}Ho{ASSISTANT} Yes"], ""),
        ([wrap("Q?\n\n", "A"), wrap("Q?\n\n", "B"), wrap("Q?\n\n", "C")], "## Human:\nQ?\n\n\n\n## Assistant:\n"),
        (["Q: why?\nA: yes", "Q: why?\nA: yep"], "Q: why?\n"),
        (["the answer is four", "the answer is five"], "the answer is "),
        (["four", "five"], ""),
        (["a b", "a b c"], "a "),
        (["", "a"], ""),
    ],
)
def test_prompt_is_what_the_texts_share_up_to_a_turn_a_line_or_a_space(texts, prompt):
    assert common_prompt(texts) == prompt


said = st.text(alphabet="ab \n:HA", max_size=8)
dialogue = st.lists(
    st.tuples(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "\n\n## Human:\n"]), said), max_size=4
).map(lambda turns: "".join(marker + text for marker, text in turns))


@given(st.lists(st.one_of(dialogue, said), min_size=2, max_size=4))
@example([f"{HUMAN}Hi{ASSISTANT}", f"{HUMAN}Hi{ASSISTANT}:"])
def test_prompt_and_completion_are_the_text_byte_for_byte(texts):
    prompt, completions = arrange(None, texts, "text", "none")
    assert [prompt + completion for completion in completions] == texts
    if len(set(texts)) > 1:
        silent = any(turns and turns[-1].content == turns[-1].end for turns in map(split_turns, texts))
        assert all(completions) or silent or not all(texts)


def test_dialogue_becomes_messages_without_its_markers():
    texts = [f"{HUMAN}Hi{ASSISTANT} Yes?{HUMAN}Go{ASSISTANT} {answer}" for answer in ("A", "B")]
    prompt, completions = arrange(None, texts, "chat", "none")
    assert prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    assert completions == [[{"role": "assistant", "content": answer}] for answer in ("A", "B")]


def test_completion_of_several_turns_stays_several_messages():
    texts = [f"{HUMAN}Hi{ASSISTANT} {first}{HUMAN}Go{ASSISTANT} A" for first in ("Yes", "No")]
    prompt, completions = arrange(None, texts, "chat", "none")
    assert [message["role"] for message in prompt] == ["user"]
    assert [[message["role"] for message in turns] for turns in completions] == [
        ["assistant", "user", "assistant"]
    ] * 2


def test_two_turns_of_one_side_are_one_message():
    texts = [f"{HUMAN}Hi{ASSISTANT} Yes", f"{HUMAN}Hi{ASSISTANT} Yes{ASSISTANT} indeed"]
    assert arrange(None, texts, "chat", "none") == ([user("Hi")], [[assistant("Yes")], [assistant("Yes\n\nindeed")]])


def test_plain_prompt_is_wrapped_or_left_alone_in_text_and_one_message_in_chat():
    assert arrange("Q?", ["A", "B"], "text", "human-assistant") == ("## Human:\nQ?\n\n## Assistant:\n", ["A", "B"])
    assert arrange("Q?", ["A", "B"], "text", "none") == ("Q?", ["A", "B"])
    assert arrange("Q?", ["A", "B"], "chat", "human-assistant") == (
        [{"role": "user", "content": "Q?"}],
        [[{"role": "assistant", "content": "A"}], [{"role": "assistant", "content": "B"}]],
    )


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("prompt", "completions"),
    [
        (None, [[user("Q"), assistant("A")], [user("Q"), assistant("B")]]),
        ("Q", [[user("Q"), assistant("A")], [user("Q"), assistant("B")]]),  # a plain prompt repeats the dialogues
        ([user("Q")], [[user("Q"), assistant("A")], [user("Q"), assistant("B")]]),
        ([user("Q")], [[assistant("A")], [assistant("B")]]),
        ("Q", [[assistant("A")], [assistant("B")]]),
        ([user("Q")], ["A", "B"]),
    ],
)
def test_every_way_to_write_a_chat_preference_comes_out_the_same(prompt, completions):
    assert arrange(prompt, completions, "chat", "none") == ([user("Q")], [[assistant("A")], [assistant("B")]])
    assert arrange(prompt, completions, "text", "none") == ("## Human:\nQ\n\n## Assistant:\n", ["A", "B"])


def test_messages_become_text_and_come_back():
    prompt, completion = [user("Hi"), assistant("Yes?"), user("Go")], [assistant("A"), user("On"), assistant("B")]
    before, after = messages_to_text(prompt, completion)
    assert before + after == (
        "## Human:\nHi\n\n## Assistant:\nYes?\n\n## Human:\nGo\n\n## Assistant:\nA\n\n## Human:\nOn\n\n## Assistant:\nB"
    )
    assert text_to_messages(before, after) == (prompt, completion)


def test_prompt_id_does_not_see_markers_white_space_or_format():
    chat = [user("Why  so?")]
    forms = ["Why so?", "\n\nHuman: Why so?\n\nAssistant:", wrap("Why\nso?"), chat]
    assert len({prompt_digest(form, ["x"]) for form in forms}) == 1
    assert prompt_digest("Why not?", ["x"]) != prompt_digest("Why so?", ["x"])
    assert len(prompt_digest("Why so?", ["x"])) == 16


def test_rows_without_a_prompt_are_told_apart_by_their_texts():
    assert prompt_digest("", ["a", "b"]) == prompt_digest("", ["b", "a"])
    assert prompt_digest("", ["a", "b"]) != prompt_digest("", ["a", "c"])
