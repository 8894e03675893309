"""
How easy are the sample sets, and by which trick? Pairwise accuracies of trivial rules and of a bag of words. Needs scikit-learn.

Everywhere below, a *pair* is `(better, worse)`, two strings, and a tie of a rule counts half.
"""

import re
from collections import Counter

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression


DOMAINS = ("academy", "business", "entertainment", "literature", "normal")
# Words, numbers and single punctuation marks: a question mark or a citation could be a trick as well as a word.
TOKEN_PATTERN = r"[a-z']+|\d+|[^\w\s]"

Pair = tuple[str, str]


def tokens(text: str) -> list[str]:
    return re.findall(TOKEN_PATTERN, text.lower())


def split_dialogue(dialogue: str) -> tuple[str, str]:
    """Prompt (up to and with the last `Assistant:`) and answer of an HH dialogue."""
    head, mark, answer = dialogue.rpartition("\n\nAssistant: ")
    return head + mark.rstrip(), answer


def pairs_of(name: str, rows: list[dict], domain: str | None = None) -> list[Pair]:
    """(better, worse) answers of raw rows. For `dsp`, the answer of `domain` against each of the other four."""
    if name == "dsp":
        return [
            (row["responses"][domain], row["responses"][other]) for row in rows for other in DOMAINS if other != domain
        ]
    if name in ("helpful", "harmless"):
        return [(split_dialogue(row["chosen"])[1], split_dialogue(row["rejected"])[1]) for row in rows]
    pairs = []
    for row in rows:
        if name == "webgpt":
            scored = [(row["score_0"], row["answer_0"]), (row["score_1"], row["answer_1"])]
        else:
            scored = [(item["score"], item["response"]) for item in row["responses_and_scores"]]
        pairs += [(a, b) for score_a, a in scored for score_b, b in scored if score_a > score_b]
    return pairs


def prompt_of(name: str, row: dict) -> str:
    """What was asked, as one whitespace-normalised line."""
    if name in ("helpful", "harmless"):
        text = split_dialogue(row["chosen"])[0]
    elif name == "webgpt":
        text = row["question"]["full_text"]
    else:
        text = row["query" if name == "dsp" else "user_input"]
    return " ".join(text.split())


def question_of(name: str, row: dict) -> str:
    """The last thing asked, without the turns before it: stricter than `prompt_of` for a leakage check."""
    prompt = prompt_of(name, row)
    return prompt.rpartition("Human: ")[2].removesuffix(" Assistant:")


def accuracy(margins: np.ndarray) -> float:
    """Share of positive margins, zeros counted half."""
    return float(((margins > 0) + 0.5 * (margins == 0)).mean())


def longest_wins(pairs: list[Pair]) -> float:
    """Accuracy of `the longer text is better`, by characters."""
    return accuracy(np.array([len(better) - len(worse) for better, worse in pairs]))


def word_accuracies(pairs: list[Pair]) -> dict[str, float]:
    """For each word, the accuracy of `the text that holds it more often is better`."""
    balance: Counter[str] = Counter()
    for better, worse in pairs:
        counts = Counter(tokens(better))
        counts.subtract(tokens(worse))
        for word, count in counts.items():
            balance[word] += (count > 0) - (count < 0)
    return {word: 0.5 + value / (2 * len(pairs)) for word, value in balance.items()}


def best_word(train: list[Pair], test: list[Pair]) -> tuple[str, float, float]:
    """The word that decides best on `train`, in either direction: the word, its accuracy there and on `test`."""
    fitted = word_accuracies(train)
    word = max(sorted(fitted), key=lambda candidate: abs(fitted[candidate] - 0.5))
    on_test = word_accuracies(test).get(word, 0.5)
    if fitted[word] < 0.5:
        return word, 1 - fitted[word], 1 - on_test
    return word, fitted[word], on_test


def bag_of_words(train: list[Pair], tests: dict[str, list[Pair]]) -> dict[str, float]:
    """Accuracy on each of `tests` of a logistic regression on differences of word counts, fit on `train`."""
    vectorizer = CountVectorizer(token_pattern=TOKEN_PATTERN)
    vectorizer.fit([text for pair in train for text in pair])

    def differences(pairs: list[Pair]):
        better, worse = zip(*pairs)
        return (vectorizer.transform(better) - vectorizer.transform(worse)).astype(float)

    rows = differences(train)
    # Alternate signs give the two classes; without an intercept the order within a pair cannot matter.
    signs = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0)
    model = LogisticRegression(fit_intercept=False, C=1.0, tol=1e-8, max_iter=5000)
    model.fit(rows.multiply(signs[:, None]).tocsr(), signs)
    return {name: accuracy(model.decision_function(differences(pairs))) for name, pairs in tests.items()}
