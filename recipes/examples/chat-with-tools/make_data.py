"""
Writes train.jsonl and test.jsonl from parts.yaml: `python recipes/examples/chat-with-tools/make_data.py`.

The output is the same on every run. A row is a preference in TRL's format: `prompt`, `chosen` and `rejected` are lists of
messages, and `tools` are the JSON schemas given to the model. `kind` is the fault of the worse answer.
"""

import json
import random
from pathlib import Path

import yaml


HERE = Path(__file__).parent
# Rows of each kind in train; the test set has a third of them.
KINDS = {
    "wrong tool": 36,
    "wrong argument": 30,
    "made up": 54,
    "needless call": 27,
    "guessed argument": 27,
    "not the result": 24,
    "hidden error": 24,
    "called again": 18,
}
TOOLS_OF_A_ROW = 3


def part(entries: list, split: str) -> list:
    """The first two thirds for training, the last third for the test."""
    at = len(entries) - len(entries) // 3
    return entries[:at] if split == "train" else entries[at:]


def schema(name: str, tool: dict) -> dict:
    """A tool as OpenAI, TRL and chat templates describe it."""
    arguments = {argument: {"type": "string"} for argument in tool["arguments"]}
    parameters = {"type": "object", "properties": arguments, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": tool["about"], "parameters": parameters}}


def call(name: str, arguments: dict) -> dict:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def say(text: str) -> dict:
    return {"role": "assistant", "content": text[0].upper() + text[1:]}


class Row:
    """Draws one row: values for every slot, a tool, and a request for it."""

    def __init__(self, parts: dict, split: str, rng: random.Random):
        self.parts, self.split, self.rng = parts, split, rng
        self.values = {name: self.draw(entries) for name, entries in parts["values"].items()}
        self.name = rng.choice(list(parts["tools"]))
        self.tool = parts["tools"][self.name]

    def draw(self, entries: list) -> str:
        return self.rng.choice(part(entries, self.split))

    def other(self, slot: str) -> str:
        """Another value for a slot."""
        entries = self.parts["values"][slot]
        entries = part(entries, self.split) if len(entries) > 3 else entries
        return self.rng.choice([entry for entry in entries if entry != self.values[slot]])

    def text(self, name: str) -> str:
        return self.draw(self.tool[name]).format_map(self.values)

    def arguments(self, name: str | None = None) -> dict[str, str]:
        tool = self.parts["tools"][name or self.name]
        return {argument: self.values[slot] for argument, slot in tool["arguments"].items()}

    def other_tool(self) -> str:
        return self.rng.choice([name for name in self.parts["tools"] if name != self.name])

    def tools(self, *names: str) -> list[dict]:
        """The schemas of these tools and of others, in random order."""
        others = [name for name in self.parts["tools"] if name not in names]
        listed = [*dict.fromkeys(names), *self.rng.sample(others, TOOLS_OF_A_ROW - len(set(names)))]
        self.rng.shuffle(listed)
        return [schema(name, self.parts["tools"][name]) for name in listed]

    def asked(self, text: str) -> list[dict]:
        return [{"role": "user", "content": text[0].upper() + text[1:]}]

    def answered(self, result: dict) -> list[dict]:
        """A question, the right call, and the tool's result."""
        content = json.dumps(result, ensure_ascii=False)
        tool = {"role": "tool", "name": self.name, "content": content}
        return [*self.asked(self.text("ask")), call(self.name, self.arguments()), tool]

    def result(self) -> dict[str, str]:
        return {field: self.values[slot] for field, slot in self.tool["result"].items()}

    def make(self, kind: str) -> dict:
        """The row: prompt, better and worse answer, tools."""
        tools = [self.name]
        if kind == "needless call":
            question, *answers = self.draw(self.parts["plain"])
            prompt, good, bad = self.asked(question), say(self.rng.choice(answers)), call(self.name, self.arguments())
        elif kind == "guessed argument":
            prompt, good = self.asked(self.text("vague")), say(self.text("back"))
            bad = call(self.name, self.arguments())
        elif kind in ("wrong tool", "wrong argument", "made up"):
            prompt, good = self.asked(self.text("ask")), call(self.name, self.arguments())
            if kind == "wrong tool":
                tools.append(self.other_tool())
                bad = call(tools[1], self.arguments(tools[1]))
            elif kind == "wrong argument":
                argument = self.rng.choice(list(self.tool["arguments"]))
                bad = call(self.name, {**self.arguments(), argument: self.other(self.tool["arguments"][argument])})
            else:
                bad = say(self.text("made_up"))
        elif kind == "hidden error":
            error = self.draw(self.parts["errors"])
            prompt = self.answered({"error": error})
            good, bad = say(self.draw(self.parts["honest"]).format(error=error)), say(self.text("answer"))
        else:
            prompt, text = self.answered(self.result()), self.draw(self.tool["answer"])
            good, bad = say(text.format_map(self.values)), call(self.name, self.arguments())
            if kind == "not the result":
                bad = say(text.format_map({**self.values, "number": self.other("number")}))
        return {"kind": kind, "prompt": prompt, "chosen": [good], "rejected": [bad], "tools": self.tools(*tools)}


def build(split: str) -> list[dict]:
    """The rows of `"train"` or `"test"`; no prompt is repeated with the same answers."""
    parts = yaml.safe_load((HERE / "parts.yaml").read_text(encoding="utf-8"))
    rng = random.Random(f"chat with tools, {split}")
    kinds = [kind for kind, number in KINDS.items() for _ in range(number if split == "train" else number // 3)]
    rng.shuffle(kinds)
    rows: dict[str, dict] = {}
    for kind in kinds:
        while (
            key := json.dumps([(row := Row(parts, split, rng).make(kind))[k] for k in ("prompt", "chosen")])
        ) in rows:
            pass
        rows[key] = row
    return list(rows.values())


def main() -> None:
    for split in ("train", "test"):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in build(split)]
        (HERE / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} pairs in {HERE.name}/{split}.jsonl")


if __name__ == "__main__":
    main()
