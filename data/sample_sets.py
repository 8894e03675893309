"""The rows of each sample set, in the raw form of the published one. Standard library only; every choice is seeded."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from sample_text import compose_near, load_bank, ranked_targets, tidy, to_second_person


# Chosen among ten (0 to 9) for the evenness of what chance decides in small test sets: their topics, whose answers are longer.
SEED = 9
SPLITS = ("train", "test")
NUM_ROWS = {
    "dsp": {"train": 400, "test": 100},
    "helpful": {"train": 560, "test": 140},
    "harmless": {"train": 560, "test": 140},
    "webgpt": {"train": 400, "test": 120},
    "gpt4llm": {"train": 360, "test": 120},
}
TEST_SHARE = 0.2
DOMAINS = ("academy", "business", "entertainment", "literature", "normal")
# Told twice in one answer, these would read like a stuck record.
SAID_ONCE = ("step", "alt", "harm", "move", "fact", "point", "myth")
# Frames an answer is made of: `body` is about the topic, `talk` fits any topic, `neutral` says nothing of quality.
ANSWER_PLANS = (
    ("body", "talk"),
    ("body", "talk", "talk"),
    ("body", "body", "talk"),
    ("body", "neutral", "talk"),
    ("body", "body", "neutral", "talk"),
    ("body", "talk", "neutral", "talk"),
)
SOURCE_NAMES = ("gpt4", "text-davinci-003", "llama")
# The same for DSP, where `style` is in the manner of the answer's domain and `plain` in that of `normal`; words aimed at.
DSP_PLANS = [
    ["style", "style"],
    ["style", "neutral", "style"],
    ["style", "neutral", "plain"],
    ["style", "plain", "style"],
    ["style", "style", "style"],
    ["style", "style", "neutral", "style"],
    ["style", "neutral", "style", "plain"],
    ["style", "style", "plain", "style"],
    ["style", "style", "style", "style", "style"],
]
DSP_WORDS = (18.0, 54.0)
# Most pairs of Helpful and Harmless are good against bad; in the rest one side is half good.
CONTRASTS = [("good", "bad")] * 4 + [("good", "mixed"), ("mixed", "bad")]

# Which of two answers is the longer one, in turn.
ORDERS = ((0, 1), (1, 0))


def topics_of(bank: dict, split: str, rng: random.Random) -> list:
    """The topics of one split. A topic stands in train or in test, never in both."""
    topics = rng.sample(bank["topics"], len(bank["topics"]))
    num_test = round(TEST_SHARE * len(topics))
    return topics[:num_test] if split == "test" else topics[num_test:]


def questions_of(name: str, split: str, key: str | None) -> Iterator[tuple[str, dict | str]]:
    """Every (question, topic) of a set's split, shuffled, as many as the split holds."""
    bank = load_bank(name)
    topics = topics_of(bank, split, random.Random(f"{SEED} {name} topics"))
    slot = key or "topic"
    asked = [
        (tidy(form.replace("{" + slot + "}", topic[key] if key else topic)), topic)
        for topic, form in itertools.product(topics, bank["questions"])
    ]
    random.Random(f"{SEED} {name} {split} questions").shuffle(asked)
    yield from asked[: NUM_ROWS[name][split]]


def quality_bank(name: str, topic_slots: dict[str, list[str]]) -> dict[str, list[str]]:
    """The bank of one topic: frames of both qualities under `good_body`, `bad_talk` and so on, and the topic's phrases."""
    shared, own = load_bank("shared"), load_bank(name)
    bank = {"neutral": shared["neutral"], "source": own.get("source", []), **topic_slots}
    for quality in ("good", "bad"):
        talk = own.get(f"talk_{quality}") or shared[f"facts_talk_{quality}"]
        bank[f"{quality}_body"] = own[quality]
        bank[f"{quality}_talk"] = shared[f"any_{quality}"] + talk
    return bank


def quality_plans(quality: str, rng: random.Random) -> list[list[str]]:
    """`ANSWER_PLANS` for a `good` or `bad` answer, or for a `mixed` one that takes turns."""
    plans = []
    for plan in ANSWER_PLANS:
        turns = itertools.cycle(rng.sample(["good", "bad"], 2)) if quality == "mixed" else itertools.repeat(quality)
        plans.append([name if name == "neutral" else f"{next(turns)}_{name}" for name in plan])
    return plans


def answers_of(
    rng: random.Random, bank: dict[str, list[str]], qualities: Sequence[str], order: tuple[int, ...]
) -> list[str]:
    """An answer of each quality; `order[i]` is the rank of answer i's length among them."""
    phrases = [phrase.lower() for slot in SAID_ONCE for phrase in bank.get(slot, [])]

    def repeats_nothing(answer: str) -> bool:
        return all(answer.lower().count(phrase) < 2 for phrase in phrases)

    targets = ranked_targets(rng, len(qualities))
    answers: list[str] = []
    for quality, rank in zip(qualities, order):
        plans = quality_plans(quality, rng)
        like = answers[0] if answers else None
        answers.append(compose_near(rng, bank, plans, targets[rank], repeats_nothing, like))
    return answers


def dialogue_rows(name: str, split: str) -> list[dict]:
    """Helpful or harmless: `{"chosen", "rejected"}`, two dialogues that differ in their last turn."""
    key = {"helpful": "task", "harmless": "act"}[name]
    turns = load_bank(name)["turns"]
    rng = random.Random(f"{SEED} {name} {split} answers")
    rows = []
    for index, (question, topic) in enumerate(questions_of(name, split, key)):
        slots = {slot: [to_second_person(value)] if isinstance(value, str) else value for slot, value in topic.items()}
        slots["step"] = slots.pop("steps", [])
        better, worse = answers_of(rng, quality_bank(name, slots), rng.choice(CONTRASTS), ORDERS[index % 2])
        opening = rng.choice(turns) if rng.random() < 0.35 else None
        start = f"\n\nHuman: {opening[0]}\n\nAssistant: {opening[1]}" if opening else ""
        prompt = f"{start}\n\nHuman: {question}\n\nAssistant:"
        rows.append({"chosen": f"{prompt} {better}", "rejected": f"{prompt} {worse}"})
    return rows


def cited_facts(answer: str, facts: list[str]) -> list[str]:
    """For each mark of `answer` in turn, `[1]`, `[2]`, …, the fact that stands last before it."""
    befores = [answer.lower().partition(f"[{number}]")[0] for number in range(1, answer.count("[") + 1)]
    return [max(facts, key=lambda fact: before.rfind(fact.lower())) for before in befores]


def webgpt_rows(name: str, split: str) -> list[dict]:
    """WebGPT: a question, two cited answers, two opposite scores; about one row in six is a tie."""
    rng = random.Random(f"{SEED} {name} {split} answers")
    sources = load_bank(name)["source"]
    rows = []
    for index, (question, topic) in enumerate(questions_of(name, split, "clause")):
        score = rng.choice([1.0, 1.0, 1.0, 0.5, 0.5, 0.0])
        if score == 0.0:
            qualities = [rng.choice(["good", "mixed", "bad"])] * 2
        elif score == 0.5:
            qualities = rng.choice([["good", "mixed"], ["mixed", "bad"]])
        else:
            qualities = ["good", "bad"]
        bank = quality_bank(name, {"clause": [topic["clause"]], "fact": topic["facts"]})
        answers = answers_of(rng, bank, qualities, ORDERS[index % 2])
        scores = [score, -score if score else 0.0]
        if rng.random() < 0.5:
            answers, scores = answers[::-1], scores[::-1]
        full_text = {"dataset": "rm_toolkit_samples", "id": f"{split}-{index:04d}", "full_text": question}
        row = {"question": full_text}
        for side, (answer, value) in enumerate(zip(answers, scores)):
            cited = cited_facts(answer, topic["facts"])
            row[f"quotes_{side}"] = {"title": rng.sample(sources, len(cited)), "extract": cited}
            row[f"answer_{side}"] = answer
            row[f"score_{side}"] = value
        rows.append(row)
    return rows


def gpt4llm_rows(name: str, split: str) -> list[dict]:
    """GPT-4-LLM: three scored responses a prompt; in one row of six two of them share a score."""
    rng = random.Random(f"{SEED} {name} {split} answers")
    orders = list(itertools.permutations(range(3)))
    rows = []
    for index, (question, topic) in enumerate(questions_of(name, split, "subject")):
        qualities = ["good", "mixed", "bad"]
        scores = [rng.randint(8, 10), rng.randint(5, 6), rng.randint(1, 3)]
        if rng.random() < 1 / 6:
            same, other = rng.choice([(0, 1), (2, 1)])
            qualities[other], scores[other] = qualities[same], scores[same]
        slots = {"subject": [topic["subject"]], "point": topic["points"], "myth": [topic["myth"]]}
        answers = answers_of(rng, quality_bank(name, slots), qualities, orders[index % 6])
        responses = [
            {"response": answer, "source": source, "score": score}
            for answer, source, score in zip(answers, rng.sample(SOURCE_NAMES, 3), scores)
        ]
        rng.shuffle(responses)
        rows.append({"user_input": question, "responses_and_scores": responses})
    return rows


def dsp_rows(name: str, split: str) -> list[dict]:
    """Domain-specific preferences: one query, an answer in the manner of each domain."""
    rng = random.Random(f"{SEED} {name} {split} answers")
    own = load_bank(name)
    plain = [frame for frame in own["domains"]["normal"] if "{topic}" in frame]
    # A plain answer takes all of its frames from one pool, or it could say one twice.
    plans = dict.fromkeys(DOMAINS, DSP_PLANS)
    plans["normal"] = [[slot.replace("plain", "style") for slot in plan] for plan in DSP_PLANS]
    rows = []
    for index, (query, topic) in enumerate(questions_of(name, split, None)):
        targets = ranked_targets(rng, len(DOMAINS), *DSP_WORDS)

        def names_the_topic_first(answer: str, topic: str = topic) -> bool:
            return topic in answer.partition(".")[0].lower()

        responses = {}
        for position, domain in enumerate(DOMAINS):
            bank = {"style": own["domains"][domain], "plain": plain, "neutral": own["neutral"], "topic": [topic]}
            target = targets[(position + index) % len(DOMAINS)]
            like = responses.get(DOMAINS[0])
            responses[domain] = compose_near(rng, bank, plans[domain], target, names_the_topic_first, like)
        rows.append({"query": query, "responses": responses})
    return rows


BUILDERS: dict[str, Callable[[str, str], list[dict]]] = {
    "dsp": dsp_rows,
    "helpful": dialogue_rows,
    "harmless": dialogue_rows,
    "webgpt": webgpt_rows,
    "gpt4llm": gpt4llm_rows,
}


def build_set(name: str, split: str) -> list[dict]:
    """All rows of one set and split. The same on every machine."""
    return BUILDERS[name](name, split)
