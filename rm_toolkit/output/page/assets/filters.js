"use strict";
/* Choosing pairs: models and order, filters, and the search. */
(() => {
  const NAMES = { set: "Set", domain: "Domain", rejected_domain: "Rival", source: "Source" };

  const select = (label, name, options, state, change) => {
    const element = RMT.el("select", { name, onchange: () => change({ [name]: element.value }) });
    for (const [value, text] of options) element.append(RMT.el("option", { value, text }));
    element.value = state[name];
    if (element.value !== state[name]) element.value = options[0][0];
    return RMT.el("label", { class: state[name] && RMT.FILTERS.includes(name) ? "field set" : "field" }, RMT.el("span", { text: label }), element);
  };

  const numberField = (label, name, state, change) => {
    const input = RMT.el("input", { name, type: "number", step: "any", placeholder: label, "aria-label": `Margin, ${label}` });
    input.value = state[name];
    input.addEventListener("change", () => change({ [name]: input.value }));
    return input;
  };

  const verdicts = (first, second) => {
    const options = [["", "all"], ["wrong", "wrong"], ["right", "right"], ["tie", "equal rewards"]];
    if (first === second) return options;
    return [...options, ["only-first", `only ${first.name} is right`], ["only-second", `only ${second.name} is right`], ["both", "both are wrong"]];
  };

  const orders = (first, second) => [
    ["worst", "worst first"],
    ...(first === second ? [] : [["disputed", "most disputed first"]]),
    ["unsure", "least sure first"], ["best", "best first"], ["file", "as in the file"],
  ];

  /** Draws the fields; `change(values)` is called with what the reader has chosen. */
  RMT.drawFilters = (parent, index, state, change) => {
    const [first, second] = RMT.chosenModels(index, state);
    const models = index.models.map(({ name }) => [name, name]);
    const shown = { ...state, model: first.name, against: second.name };
    const fields = [];
    if (models.length > 1) {
      fields.push(select("Model", "model", models, shown, change));
      fields.push(select("Against", "against", models.filter(([name]) => name !== first.name), shown, change));
    }
    fields.push(select("Order", "sort", orders(first, second), state, change));
    fields.push(select("Verdict", "verdict", verdicts(first, second), state, change));
    const any = (values) => [["", "all"], ...values.map((value) => [value, value])];
    if (index.sets.length > 1) fields.push(select(NAMES.set, "set", any(index.sets.map(({ name }) => name)), state, change));
    for (const tag of ["domain", "rejected_domain", "source"]) {
      if (index.tags[tag]?.values.length > 1) fields.push(select(NAMES[tag], tag, any(index.tags[tag].values), state, change));
    }
    const ratios = index.ratioNames.map((name, k) => [String(k), name]);
    fields.push(select("Length ratio", "ratio", [["", "all"], ...ratios], state, change));
    const range = [numberField("from", "min", state, change), RMT.el("span", { text: "–" }), numberField("to", "max", state, change)];
    fields.push(RMT.el("div", { class: state.min || state.max ? "field set" : "field" }, RMT.el("span", { text: "Margin" }), RMT.el("div", { class: "range" }, ...range)));
    parent.replaceChildren(...fields);
  };

  /** The search field; what is typed is looked for after a short rest. */
  RMT.drawSearch = (change) => {
    const input = RMT.el("input", { id: "search", type: "search", placeholder: "Search all texts", "aria-label": "Search all texts", autocomplete: "off", spellcheck: "false" });
    let timer = 0;
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => change({ q: input.value.trim() }), 250);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      clearTimeout(timer);
      change({ q: input.value.trim() });
      input.blur();
    });
    return input;
  };
})();
