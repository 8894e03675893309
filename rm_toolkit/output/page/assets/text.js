"use strict";
/* A text as it is read: strings as they are, messages as turns with their tool calls; what cannot be seen is shown. */
(() => {
  // Controls, directions and other characters that change what is seen without being seen, and halves of pairs.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]|\p{Cs}/gu;
  const TURN = /^(?:#+ ?)?(?:Human|Assistant|User|System|Question|Answer):/gm;
  RMT.LONGEST = 20000; // characters that are drawn before the reader asks for more

  const named = (character) => {
    const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return RMT.el("span", { class: "hidden-character", title: "A character that is not seen", text: `U+${code}` });
  };

  const appendPlain = (parent, text) => {
    let end = 0;
    for (const found of text.matchAll(TURN)) {
      if (found.index > end) parent.append(text.slice(end, found.index));
      parent.append(RMT.el("span", { class: "turn", text: found[0] }));
      end = found.index + found[0].length;
    }
    if (end < text.length) parent.append(text.slice(end));
  };

  /** Appends a text in which every character can be seen. */
  RMT.appendText = (parent, text, turns = true) => {
    const append = turns ? appendPlain : (to, part) => to.append(part);
    let end = 0;
    for (const found of text.matchAll(HIDDEN)) {
      if (found.index > end) append(parent, text.slice(end, found.index));
      parent.append(named(found[0]));
      end = found.index + found[0].length;
    }
    if (end < text.length) append(parent, text.slice(end));
  };

  const pretty = (value) => {
    let shown = value;
    if (typeof value === "string") {
      try { shown = JSON.parse(value); } catch { return value; }
    }
    return typeof shown === "string" ? shown : JSON.stringify(shown, null, 2);
  };

  const contentText = (content) => {
    if (typeof content === "string") return content;
    if (!Array.isArray(content)) return content === null || content === undefined ? "" : pretty(content);
    return content.map((part) => (part && typeof part.text === "string" ? part.text : pretty(part))).join("");
  };

  const callParts = (calls) =>
    (Array.isArray(calls) ? calls : [calls]).map((call) => {
      const own = (call && call.function) || call || {};
      const call_name = typeof own.name === "string" ? own.name : "";
      return { label: call_name ? `calls ${call_name}` : "calls", text: pretty(own.arguments ?? own), kind: "json" };
    });

  const LABELS = { reasoning_content: "reasoning", thinking: "reasoning", name: "name", tool_call_id: "answers call" };

  const messageParts = (message) => {
    const parts = [];
    for (const [field, value] of Object.entries(message)) {
      if (field === "role" || value === null || value === undefined) continue;
      if (field === "content") {
        if (value !== "") parts.push({ label: "", text: contentText(value), kind: "text" });
      } else if (field === "tool_calls") parts.push(...callParts(value));
      else parts.push({ label: LABELS[field] || field, text: pretty(value), kind: typeof value === "string" ? "text" : "json" });
    }
    return parts;
  };

  /** What a text consists of: turns, each with a role (none of a string) and parts that hold strings. */
  RMT.turns = (value) => {
    if (typeof value === "string") return [{ role: null, parts: [{ label: "", text: value, kind: "text" }] }];
    if (!Array.isArray(value)) return [{ role: null, parts: [{ label: "", text: pretty(value), kind: "json" }] }];
    return value.map((message) => ({ role: String(message?.role ?? "?"), parts: messageParts(message ?? {}) }));
  };

  /** All strings of a text in order: what is searched and compared. */
  RMT.strings = (value) =>
    typeof value === "string" ? [value] : RMT.turns(value).flatMap((turn) => turn.parts.map((part) => part.text));

  const drawPart = (part, marked) => {
    const body = RMT.el("div", { class: part.kind === "json" ? "part json" : "part", dir: "auto" });
    const draw = (limit) => {
      body.replaceChildren();
      if (marked) marked(body, limit);
      else {
        const lines = part.text.match(/^\n*/)[0].length; // as signs, so that a text begins where its frame does
        if (lines) body.append(RMT.el("span", { class: "newline", title: "Line ends", text: `${"↵".repeat(Math.min(lines, 9))} ` }));
        RMT.appendText(body, part.text.slice(lines, limit));
      }
      if (part.text.length > limit) {
        const label = `Show all ${RMT.count(part.text.length)} characters`;
        body.append(RMT.el("button", { class: "more", type: "button", onclick: () => draw(Infinity), text: label }));
      }
    };
    draw(RMT.LONGEST);
    if (!part.label) return body;
    return RMT.el("div", { class: "labelled" }, RMT.el("div", { class: "part-label" }, shown(part.label)), body);
  };

  const shown = (text) => {
    const span = RMT.el("span", {});
    RMT.appendText(span, text, false);
    return span;
  };

  /** Draws a text; `marks`, one of each string of it in order, draws a string with its differences. */
  RMT.drawText = (value, marks) => {
    let number = 0;
    const drawn = RMT.turns(value).map((turn) => {
      const parts = turn.parts.map((part) => drawPart(part, marks && marks[number++]));
      if (turn.role === null) return RMT.el("div", { class: "plain" }, ...parts);
      const role = turn.role.replace(/[^\w-]/g, "");
      return RMT.el("div", { class: `message role-${role}` }, RMT.el("div", { class: "role" }, shown(turn.role)), ...parts);
    });
    return RMT.el("div", { class: "text" }, ...drawn);
  };
})();
