"use strict";
/* Sections of a report: paragraphs, sortable tables, figures. Any page of the toolkit is made of these. */
(() => {
  const NUMBER = /^[+−-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?(?=$|[\s%])/;
  const MISSING = /^(?:$|[–-](?:$| ))/;

  const cellText = (cell) => (typeof cell === "object" && cell !== null ? cell.text : String(cell));

  /** What a cell sorts by: the number it begins with, or NaN for text and dashes. */
  const value = (text) => {
    const found = text.replace("−", "-").match(NUMBER);
    return found ? Number(found[0].replace(/,/g, "")) : NaN;
  };

  const inNumbers = (rows, column) => {
    const texts = rows.map((row) => cellText(row[column] ?? "")).filter((text) => !MISSING.test(text));
    return texts.length > 0 && texts.every((text) => !Number.isNaN(value(text)));
  };

  /** A number apart from the interval or the count behind it, which are read second. */
  const draw = (cell, numeric) => {
    const text = cellText(cell);
    if (cell && cell.code) return [RMT.el("code", {}, ...RMT.command(text))];
    const found = numeric && text.match(/^(\S+)( [[(].*| ± .*)$/);
    const shown = found ? [found[1], RMT.el("span", { class: "aside", text: found[2] })] : [text];
    return cell && cell.to ? [RMT.el("a", { href: `#${cell.to}` }, ...shown)] : shown;
  };

  const compare = (numeric) => (one, other) => {
    if (!numeric) return one.localeCompare(other, undefined, { numeric: true });
    const [a, b] = [value(one), value(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  };

  RMT.drawTable = ({ columns, rows, caption }) => {
    const numeric = columns.map((_, column) => inNumbers(rows, column));
    const body = RMT.el("tbody");
    const lines = rows.map((row) =>
      RMT.el("tr", {}, ...row.map((cell, k) => RMT.el(k ? "td" : "th", { class: numeric[k] ? "number" : "", scope: k ? null : "row" }, ...draw(cell, numeric[k])))),
    );
    body.append(...lines);
    let sorted = { column: -1, down: false };
    const heads = columns.map((name, column) => {
      const sort = () => {
        const down = sorted.column === column ? !sorted.down : numeric[column];
        sorted = { column, down };
        const order = rows.map((row, k) => [cellText(row[column] ?? ""), k]);
        const by = compare(numeric[column]);
        order.sort((a, b) => (down ? -1 : 1) * by(a[0], b[0]) || a[1] - b[1]);
        body.append(...order.map(([, k]) => lines[k]));
        heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : down ? "descending" : "ascending"));
      };
      const button = RMT.el("button", { type: "button", onclick: sort, title: "Sort" }, name || "\u00a0");
      return RMT.el("th", { scope: "col", class: numeric[column] ? "number" : "", "aria-sort": "none" }, button);
    });
    const table = RMT.el("table", {}, RMT.el("thead", {}, RMT.el("tr", {}, ...heads)), body);
    const note = caption ? [RMT.el("p", { class: "caption" }, ...RMT.inline(caption))] : [];
    return RMT.el("div", { class: "table" }, ...note, RMT.el("div", { class: "scroll", tabindex: "0" }, table));
  };

  const drawCode = ({ text }) =>
    RMT.el("div", { class: "code" },
      RMT.el("pre", {}, ...RMT.command(text)),
      RMT.el("button", { type: "button", onclick: () => RMT.copy(text, "Command") }, "Copy"));

  const drawFigure = ({ source, file, caption }) =>
    RMT.el("figure", {}, RMT.el("img", { src: source || file, alt: caption, loading: "lazy" }), RMT.el("figcaption", { text: caption }));

  const DRAW = {
    text: ({ text }) => RMT.el("p", {}, ...RMT.inline(text)),
    heading: ({ text }) => RMT.el("h3", { text }),
    terms: ({ entries }) => RMT.el("ul", { class: "terms" }, ...entries.map((entry) => RMT.el("li", {}, ...RMT.inline(entry)))),
    code: drawCode,
    table: RMT.drawTable,
    figure: drawFigure,
  };

  /** Figures that follow each other stand in a grid. */
  const drawBlocks = (blocks) => {
    const drawn = [];
    let grid = null;
    for (const block of blocks) {
      if (block.kind !== "figure") grid = null;
      else if (!grid) drawn.push((grid = RMT.el("div", { class: "figures" })));
      (grid || { append: (element) => drawn.push(element) }).append(DRAW[block.kind](block));
    }
    return drawn;
  };

  RMT.drawReport = ({ sections }) => {
    const parts = sections.map(({ title, blocks }, k) =>
      RMT.el("section", { id: `section-${k}` }, RMT.el("h2", { text: title }), ...drawBlocks(blocks)));
    const jump = (k) => () => parts[k].scrollIntoView({ block: "start" });
    const contents = sections.map(({ title }, k) => RMT.el("li", {}, RMT.el("button", { type: "button", onclick: jump(k), text: title })));
    const list = RMT.el("nav", { class: "contents", "aria-label": "Contents" }, RMT.el("ul", {}, ...contents));
    return RMT.el("div", { class: "report" }, list, RMT.el("div", { class: "sections" }, ...parts));
  };
})();
