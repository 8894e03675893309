"use strict";
/* The page: its title, its views, its address. */
(() => {
  const start = async () => {
    const content = RMT.openBlocks();
    const app = document.getElementById("app");
    let state = RMT.readState(location.hash);
    const report = RMT.el("main", { id: "report-view" }, RMT.drawReport(content));
    const pairs = content.pairs ? RMT.el("main", { id: "pairs-view" }) : null;
    let browser = null;

    const show = (view) => {
      state.view = pairs && view === "pairs" ? "pairs" : "";
      report.hidden = state.view === "pairs";
      if (pairs) pairs.hidden = !report.hidden;
      document.body.classList.toggle("app", report.hidden);
      for (const tab of tabs) tab.setAttribute("aria-selected", String((tab.dataset.view === "pairs") === report.hidden));
      if (report.hidden && !browser) browser = RMT.openPairs(pairs, state, write);
    };

    const write = (next) => {
      state = next;
      history.replaceState(null, "", state.view === "pairs" ? RMT.stateHash(state) : "#");
    };

    const tab = (view, text) =>
      RMT.el("button", { type: "button", role: "tab", "data-view": view, onclick: () => { show(view); write(state); }, text });
    const tabs = pairs ? [tab("", "Report"), tab("pairs", "Pairs")] : [];
    const title = RMT.el("div", { class: "title" }, RMT.el("h1", { text: content.title }), content.subtitle ? RMT.el("p", { text: content.subtitle }) : null);
    app.replaceChildren(RMT.el("header", { class: "page-head" }, title, RMT.el("div", { class: "tabs", role: "tablist" }, ...tabs)), report, ...(pairs ? [pairs] : []));

    window.addEventListener("hashchange", async () => {
      const next = RMT.readState(location.hash);
      if (next.view !== "pairs" || !pairs) return show("");
      state = next;
      const before = browser;
      show("pairs");
      if (before) (await before).go(state);
    });

    document.addEventListener("keydown", async (event) => {
      if (!pairs || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
      if (event.key === "r") { show(report.hidden ? "" : "pairs"); write(state); }
      if (event.key === "r" || !report.hidden || !browser) return;
      if (event.key === "/" || event.key === "?") event.preventDefault();
      (await browser).key(event.key);
    });

    show(state.view);
    if (browser) await browser;
    document.documentElement.dataset.ready = "true";
  };

  start().catch((error) => {
    document.getElementById("app").textContent = `This page cannot be shown: ${error.message}.`;
    document.documentElement.dataset.ready = "false";
    throw error;
  });
})();
