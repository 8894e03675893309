"use strict";
/* The list of the pairs that are shown, a page at a time. */
(() => {
  RMT.PAGE = 50;

  RMT.verdictOf = (margin) => (margin > 0 ? "right" : margin < 0 ? "wrong" : "tie");

  const tagLine = (index, pair, model) => {
    const parts = [];
    if (index.sets.length > 1) parts.push(RMT.setOf(index, pair).name);
    const [domain, rival] = [RMT.tagOf(index, "domain", pair), RMT.tagOf(index, "rejected_domain", pair)];
    if (domain && parts[0] !== domain) parts.push(domain);
    if (rival) parts.push(`over ${rival}`);
    parts.push(`length ×${RMT.fixed(RMT.ratioOf(index, pair, model), 2)}`);
    return parts.join(" · ");
  };

  const drawRow = (index, pair, models, open) => {
    const excerpt = RMT.el("span", { class: "excerpt" }, "…");
    RMT.readPrompt(index, pair).then((prompt) => {
      excerpt.replaceChildren();
      RMT.appendText(excerpt, prompt.excerpt || "(no prompt)", false);
    }, () => excerpt.replaceChildren("(cannot be read)"));
    const margins = models.map(({ name, margin }) =>
      RMT.el("span", { class: `margin ${RMT.verdictOf(margin[pair])}`, title: `Margin of ${name}`, text: RMT.fixed(margin[pair], 2, true) }));
    return RMT.el("li", { role: "option", "data-pair": String(pair), id: `pair-${pair}`, onclick: () => open(pair) },
      RMT.el("span", { class: "margins" }, ...margins), excerpt, RMT.el("span", { class: "tags" }, tagLine(index, pair, models[0])));
  };

  /** Draws one page of the list; `open(pair)` is called for the one that the reader chooses. */
  RMT.drawList = (list, index, order, page, models, open) => {
    const shown = [...order.subarray(page * RMT.PAGE, (page + 1) * RMT.PAGE)];
    list.replaceChildren(...shown.map((pair) => drawRow(index, pair, models, open)));
    list.scrollTop = 0;
  };

  RMT.markRow = (list, pair) => {
    for (const row of list.children) row.setAttribute("aria-selected", String(Number(row.dataset.pair) === pair));
    const row = document.getElementById(`pair-${pair}`);
    list.setAttribute("aria-activedescendant", row ? row.id : "");
    if (!row) return;
    if (row.offsetTop < list.scrollTop) list.scrollTop = row.offsetTop;
    const below = row.offsetTop + row.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
  };

  RMT.drawPager = (parent, order, page, turn) => {
    const last = Math.max(0, Math.ceil(order.length / RMT.PAGE) - 1);
    const button = (label, text, to, off) => RMT.el("button", { type: "button", "aria-label": label, title: label, disabled: off, onclick: () => turn(to), text });
    const first = order.length ? page * RMT.PAGE + 1 : 0;
    const where = `${RMT.count(first)}–${RMT.count(Math.min(order.length, (page + 1) * RMT.PAGE))} of ${RMT.count(order.length)}`;
    parent.replaceChildren(
      button("Previous page (p)", "‹", page - 1, page === 0), RMT.el("span", { text: where }), button("Next page (n)", "›", page + 1, page >= last));
  };
})();
