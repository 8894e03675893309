"use strict";
/* The browser of pairs: list on one side, one pair on the other, and the keys that move between them. */
(() => {
  const HELP = [
    ["j  k", "next, previous pair"], ["n  p", "next, previous page"], ["g  G", "first, last pair"], ["/", "search"],
    ["d", "mark differences"], ["w", "wrong pairs alone"], ["m", "next model"], ["s", "next order"], ["x", "clear all filters"],
    ["c", "copy the pair as JSON"], ["l", "copy the link of the pair"], ["r", "report"], ["?", "these keys"],
  ];

  RMT.openPairs = async (root, state, onState) => {
    const index = RMT.openIndex(await RMT.block("pairs"));
    let order = new Uint32Array(0);
    let page = 0;
    let current = -1;
    let hits = null;
    let searched = "";
    let marks = "auto";
    let shown = null;
    let drawing = 0;

    const filters = RMT.el("div", { class: "filters" });
    const summary = RMT.el("p", { class: "summary", role: "status" });
    const list = RMT.el("ol", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Pairs" });
    const pager = RMT.el("div", { class: "pager" });
    const detail = RMT.el("div", { class: "detail", tabindex: "-1" });
    const search = RMT.drawSearch((values) => change(values));
    const help = RMT.el("dialog", { class: "help" }, RMT.el("h2", { text: "Keys" }),
      RMT.el("dl", {}, ...HELP.flatMap(([keys, what]) => [RMT.el("dt", {}, ...keys.split("  ").map((key) => RMT.el("kbd", { text: key }))), RMT.el("dd", { text: what })])),
      RMT.el("button", { type: "button", onclick: () => help.close(), text: "Close" }));
    const clear = RMT.el("button", { type: "button", class: "clear", onclick: () => clearFilters(), text: "Clear filters" });
    const tools = RMT.el("div", { class: "tools" }, search, clear, RMT.el("button", { type: "button", onclick: () => help.showModal(), title: "Keys (?)", "aria-label": "Keys", text: "?" }));
    root.replaceChildren(
      RMT.el("div", { class: "chooser" }, tools, filters),
      RMT.el("div", { class: "panes" }, RMT.el("div", { class: "side" }, summary, list, pager), detail), help);

    const models = () => [...new Set(RMT.chosenModels(index, state))];
    const pages = () => Math.max(1, Math.ceil(order.length / RMT.PAGE));
    const place = () => order.indexOf(current);

    const say = () => {
      const { count, accuracy, mean } = RMT.summarize(order, models()[0]);
      const numbers = count ? ` · accuracy ${accuracy.toFixed(3)} · mean margin ${RMT.fixed(mean, 2, true)}` : "";
      const all = count === index.numPairs ? RMT.plural(count, "pair") : `${RMT.count(count)} of ${RMT.plural(index.numPairs, "pair")}`;
      summary.textContent = all + numbers;
      clear.disabled = !RMT.FILTERS.some((name) => state[name] !== "");
    };

    const drawList = () => {
      RMT.drawList(list, index, order, page, models(), open);
      RMT.drawPager(pager, order, page, turn);
      RMT.markRow(list, current);
    };

    const link = () => RMT.copy(location.href.split("#")[0] + RMT.pairHash(state, RMT.pairName(index, current)), "Link");
    const copy = () => shown && RMT.copy(JSON.stringify(RMT.pairValue(index, current, shown.texts, shown.prompt), null, 2), "Pair");
    const toggle = () => { marks = shown && shown.marked ? "off" : "on"; drawDetail(); };
    const button = (text, title, onclick) => RMT.el("button", { type: "button", title, onclick, text });

    const drawDetail = async () => {
      const turnOf = ++drawing;
      shown = null;
      if (current < 0) return detail.replaceChildren(RMT.el("p", { class: "empty", text: "No pair fits these filters." }));
      const actions = {
        toggle,
        buttons: [button("Copy link", "l", link), button("Copy JSON", "c", copy)],
        siblings: () => change({ ...cleared(), prompt: String(index.prompt[current]), set: RMT.setOf(index, current).name }),
      };
      const holder = RMT.el("div");
      try {
        const found = await RMT.drawPair(holder, index, current, models(), marks, actions);
        if (turnOf !== drawing) return;
        shown = found;
        detail.replaceChildren(...holder.childNodes);
      } catch (error) {
        if (turnOf === drawing) detail.replaceChildren(RMT.el("p", { class: "empty", text: `This pair cannot be shown: ${error.message}.` }));
      }
      detail.scrollTop = 0;
    };

    const open = (pair) => {
      current = pair;
      state.pair = pair < 0 ? "" : RMT.pairName(index, pair);
      const at = place();
      if (at >= 0 && Math.floor(at / RMT.PAGE) !== page) { page = Math.floor(at / RMT.PAGE); drawList(); }
      RMT.markRow(list, current);
      onState(state);
      return drawDetail();
    };

    const turn = (to) => {
      if (to < 0 || to >= pages()) return;
      page = to;
      drawList();
      open(order[page * RMT.PAGE]);
    };

    const find = async () => {
      if (!state.q) { RMT.stopSearch(); hits = null; searched = ""; return true; }
      const query = state.q; // another one may be asked for before this one is found
      if (query === searched) { RMT.stopSearch(); return true; }
      summary.textContent = "searching …";
      const found = await RMT.search(index, query, (share) => { summary.textContent = `searching … ${Math.floor(100 * share)}%`; });
      if (!found) return false;
      [hits, searched] = [found, query];
      return true;
    };

    const refresh = async (keep) => {
      RMT.drawFilters(filters, index, state, change);
      if (document.activeElement !== search) search.value = state.q;
      try {
        if (!(await find())) return;
      } catch (error) {
        summary.textContent = `The search stopped: ${error.message}.`;
        return;
      }
      order = RMT.selectPairs(index, state, hits);
      const wanted = keep && state.pair ? RMT.findPair(index, state.pair) : -1;
      const at = wanted < 0 ? -1 : order.indexOf(wanted);
      page = Math.max(0, Math.floor(at / RMT.PAGE));
      say();
      current = wanted >= 0 ? wanted : order.length ? order[0] : -1;
      drawList();
      await open(current);
    };

    const change = (values) => {
      const name = document.activeElement?.name;
      Object.assign(state, values);
      const done = refresh(false);
      if (name) filters.querySelector(`[name="${name}"]`)?.focus({ preventScroll: true });
      return done;
    };

    const cleared = () => Object.fromEntries(RMT.FILTERS.map((name) => [name, ""]));
    const clearFilters = () => { search.value = ""; change(cleared()); };

    const step = (by) => {
      const at = place() + by;
      if (at >= 0 && at < order.length) open(order[at]);
    };

    const after = (values, value) => values[(values.indexOf(value) + 1) % values.length];
    const options = (name) => [...(filters.querySelector(`[name="${name}"]`)?.options ?? [])].map((option) => option.value);

    const KEYS = {
      j: () => step(1), k: () => step(-1), n: () => turn(page + 1), p: () => turn(page - 1),
      g: () => order.length && open(order[0]), G: () => order.length && open(order[order.length - 1]),
      "/": () => { search.focus(); search.select(); }, d: toggle, c: copy, l: () => current >= 0 && link(),
      w: () => change({ verdict: state.verdict === "wrong" ? "" : "wrong" }),
      m: () => index.models.length > 1 && change({ model: after(index.models.map(({ name }) => name), models()[0].name), against: models()[0].name }),
      s: () => change({ sort: after(options("sort"), state.sort) }), x: clearFilters, "?": () => help.showModal(),
    };
    KEYS.ArrowDown = () => document.activeElement === list && KEYS.j();
    KEYS.ArrowUp = () => document.activeElement === list && KEYS.k();

    await refresh(true);
    return {
      key: (name) => (help.open || !KEYS[name] ? false : (KEYS[name](), true)),
      go: (next) => { state = next; return refresh(true); },
    };
  };
})();
