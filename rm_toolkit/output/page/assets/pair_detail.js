"use strict";
/* One pair: what the models say of it, its prompt, and both responses side by side. */
(() => {
  const chip = (label, value, title) => {
    const element = RMT.el("span", { class: "chip", title }, RMT.el("span", { class: "chip-label", text: label }));
    RMT.appendText(element, ` ${value}`, false);
    return element;
  };

  const CUT = ["", "chosen", "rejected", "both"];

  const drawChips = (index, pair, prompt, model) => {
    const chips = [chip("set", RMT.setOf(index, pair).name)];
    for (const [tag, label] of [["domain", "domain"], ["rejected_domain", "rival"], ["source", "source"]]) {
      const value = RMT.tagOf(index, tag, pair);
      if (value) chips.push(chip(label, value));
    }
    const [chosen, rejected] = RMT.lengthsOf(index, pair, model).map(RMT.count);
    const lengths = `${chosen} : ${rejected} (×${RMT.fixed(RMT.ratioOf(index, pair, model), 2)})`;
    chips.push(chip("characters", lengths, "Of the chosen and of the rejected response"));
    if (index.wanted && index.wanted[pair]) chips.push(chip("wanted margin", RMT.fixed(index.wanted[pair]), "Asked for by the data"));
    if (prompt.id) chips.push(chip("prompt", prompt.id));
    return RMT.el("div", { class: "chips" }, ...chips);
  };

  const WORDS = { right: "right", wrong: "wrong", tie: "equal" };

  /** A bar to the right for a right pair, to the left for a wrong one; the widest margin of the models fills its side. */
  const drawBar = (margin, widest) => {
    const bar = RMT.el("span", { class: `bar ${RMT.verdictOf(margin)}` }, RMT.el("i"));
    bar.firstChild.style.width = `${widest ? (50 * Math.abs(margin)) / widest : 0}%`;
    return bar;
  };

  const drawVerdicts = (index, pair, models) => {
    const shown = [...models, ...index.models.filter((model) => !models.includes(model))];
    const widest = Math.max(...shown.map(({ margin }) => Math.abs(margin[pair])));
    const lines = shown.map(({ name, chosen, rejected, margin, cut }) => {
      const verdict = RMT.verdictOf(margin[pair]);
      const lost = cut && cut[pair] ? RMT.el("span", { class: "cut", title: "Longer than the model reads: it lost its beginning", text: `cut: ${CUT[cut[pair]]}` }) : "";
      return RMT.el("tr", {},
        RMT.el("th", { scope: "row" }, name, " ", lost),
        RMT.el("td", { class: `verdict ${verdict}`, text: WORDS[verdict] }),
        RMT.el("td", { class: "number", text: RMT.fixed(margin[pair], 3, true) }),
        RMT.el("td", {}, drawBar(margin[pair], widest)),
        RMT.el("td", { class: "number", text: RMT.sigmoid(margin[pair]).toFixed(3) }),
        RMT.el("td", { class: "number", text: RMT.fixed(chosen[pair], 3) }),
        RMT.el("td", { class: "number", text: RMT.fixed(rejected[pair], 3) }));
    });
    const heads = ["model", "verdict", "margin", "", "p", "chosen", "rejected"].map((text, k) => RMT.el("th", { scope: "col", class: k === 2 || k > 3 ? "number" : "", text }));
    return RMT.el("div", { class: "scroll" }, RMT.el("table", { class: "verdicts" }, RMT.el("thead", {}, RMT.el("tr", {}, ...heads)), RMT.el("tbody", {}, ...lines)));
  };

  /** The texts are those of the first model of the report: what another one reads in another format is not here. */
  const drawReading = (index, models) => {
    const names = models.filter(({ lengths }) => lengths).map(({ name }) => name);
    return names.length ? [RMT.el("p", { class: "reading", text: `Shown as ${index.models[0].name} reads it; ${names.join(" and ")} reads the same pair in another format.` })] : [];
  };

  const drawTemplate = (template) =>
    Object.entries(template || {}).map(([name, value]) =>
      RMT.el("details", { class: "template" }, RMT.el("summary", { text: name === "tools" ? "Tools that the model may call" : "Variables of the chat template" }), RMT.drawText([{ role: name, content: JSON.stringify(value, null, 2) }])));

  const drawResponses = (texts, compared, marked) => {
    const side = (kind, title, value, marks) =>
      RMT.el("article", { class: `response ${kind}` }, RMT.el("h3", { text: title }), RMT.drawText(value, marks));
    const marks = marked && compared ? compared.marks : [];
    return RMT.el("div", { class: "responses" }, side("chosen", "Chosen", texts.chosen, marks[0]), side("rejected", "Rejected", texts.rejected, marks[1]));
  };

  const note = (compared, marked) => {
    if (!compared) return "Too long to be compared.";
    const share = `${Math.round(100 * compared.alike)}% of the words are in both`;
    return marked ? `${share}; the others are marked.` : `${share}.`;
  };

  /** All that the page knows of a pair, as a value. */
  RMT.pairValue = (index, pair, texts, prompt) => {
    const set = RMT.setOf(index, pair);
    const value = { set: set.name, pair: pair - set.start, prompt_id: prompt.id };
    for (const tag of index.tagNames) value[tag] = RMT.tagOf(index, tag, pair);
    if (index.wanted) value.wanted_margin = index.wanted[pair];
    Object.assign(value, { prompt: texts.prompt, chosen: texts.chosen, rejected: texts.rejected, ...texts.template, models: {} });
    for (const { name, chosen, rejected, margin, cut } of index.models) {
      value.models[name] = {
        reward_chosen: chosen[pair], reward_rejected: rejected[pair], margin: margin[pair], p: RMT.sigmoid(margin[pair]),
        truncated_chosen: Boolean(cut && cut[pair] & 1), truncated_rejected: Boolean(cut && cut[pair] & 2),
      };
    }
    return value;
  };

  const siblings = (index, pair) => {
    let count = 0;
    const set = RMT.setOf(index, pair);
    for (let other = set.start; other < set.end; other++) count += index.prompt[other] === index.prompt[pair] ? 1 : 0;
    return count;
  };

  /**
   * Draws a pair. `marks` is "auto", "on" or "off"; `actions` are buttons of the page. Gives what it found, for the keys.
   */
  RMT.drawPair = async (parent, index, pair, models, marks, actions) => {
    const [texts, prompt] = await Promise.all([RMT.readTexts(index, pair), RMT.readPrompt(index, pair)]);
    const compared = RMT.compare(texts.chosen, texts.rejected);
    const marked = Boolean(compared) && (marks === "on" || (marks === "auto" && compared.worthwhile));
    const others = siblings(index, pair);
    const buttons = [...actions.buttons];
    if (others > 1) buttons.push(RMT.el("button", { type: "button", onclick: actions.siblings, text: `All ${others} pairs of this prompt` }));
    const hasPrompt = texts.prompt.length > 0;
    parent.replaceChildren(
      RMT.el("header", {}, RMT.el("h2", {}, RMT.pairName(index, pair)), RMT.el("div", { class: "buttons" }, ...buttons)),
      drawVerdicts(index, pair, models),
      drawChips(index, pair, prompt, models[0]),
      ...drawReading(index, models),
      ...drawTemplate(texts.template),
      ...(hasPrompt ? [RMT.el("article", { class: "prompt" }, RMT.el("h3", { text: "Prompt" }), RMT.drawText(texts.prompt))] : []),
      RMT.el("div", { class: "compared" },
        RMT.el("span", { text: note(compared, marked) }),
        compared && RMT.el("button", { type: "button", onclick: actions.toggle, "aria-pressed": String(marked), text: marked ? "Hide marks" : "Mark differences", title: "d" })),
      drawResponses(texts, compared, marked));
    parent.scrollTop = 0;
    return { texts, prompt, marked };
  };
})();
