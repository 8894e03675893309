"""
Takes the best of n answers by the rewards that `rm-toolkit score` wrote: `python recipes/examples/best-of-n/pick.py SCORED.jsonl BEST.jsonl`.

Each line of BEST.jsonl is a prompt with the answer of the highest reward. Where the rows have `scores` of people, the table says
how good the answers are that were taken, beside taking the first one, any one, and the best one there is.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scored", type=Path, help="rows with `prompt`, `completions` and `reward`, from rm-toolkit score"
    )
    parser.add_argument("best", type=Path, help="what is written: `prompt`, `completion`, `reward`")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.scored.read_text(encoding="utf-8").splitlines()]
    best = [max(range(len(row["reward"])), key=row["reward"].__getitem__) for row in rows]
    with arguments.best.open("w", encoding="utf-8") as file:
        for row, k in zip(rows, best):
            taken = {"prompt": row["prompt"], "completion": row["completions"][k], "reward": row["reward"][k]}
            file.write(json.dumps(taken, ensure_ascii=False) + "\n")
    print(f"{len(rows)} answers in {arguments.best}")
    judged = [(row["scores"], k) for row, k in zip(rows, best) if "scores" in row]
    if judged:
        ways = {
            "the first answer": [scores[0] for scores, _ in judged],
            "any answer, on average": [sum(scores) / len(scores) for scores, _ in judged],
            "the answer with the highest reward": [scores[k] for scores, k in judged],
            "the best answer there is": [max(scores) for scores, _ in judged],
        }
        for way, scores in ways.items():
            print(f"{sum(scores) / len(scores):5.2f}  {way}")


if __name__ == "__main__":
    main()
