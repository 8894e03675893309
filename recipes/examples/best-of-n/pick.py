"""
Picks the best of n answers by the rewards from `rm-toolkit score`: `python recipes/examples/best-of-n/pick.py SCORED.jsonl BEST.jsonl`.

Each line of BEST.jsonl is a prompt with the answer that has the highest reward. If the rows have human `scores`, a table
compares the picked answers with the first one, a random one, and the best one.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scored", type=Path, help="rows with `prompt`, `completions` and `reward`, from rm-toolkit score"
    )
    parser.add_argument("best", type=Path, help="output file: `prompt`, `completion`, `reward`")
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
