"use strict";
/* What is shown, as the address says it: a link opens the same pair in the same list. */
(() => {
  const EMPTY = {
    view: "", model: "", against: "", sort: "worst", set: "", domain: "", source: "", rejected_domain: "", verdict: "",
    ratio: "", min: "", max: "", prompt: "", q: "", pair: "",
  };
  /** Those that choose pairs. */
  RMT.FILTERS = ["set", "domain", "source", "rejected_domain", "verdict", "ratio", "min", "max", "prompt", "q"];

  RMT.emptyState = () => ({ ...EMPTY });

  RMT.readState = (hash) => {
    const state = RMT.emptyState();
    for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
      if (Object.hasOwn(EMPTY, name)) state[name] = value;
    }
    for (const name of ["min", "max", "ratio", "prompt"]) if (Number.isNaN(Number(state[name]))) state[name] = "";
    return state;
  };

  RMT.stateHash = (state) => {
    const parts = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== EMPTY[name]) parts.set(name, value);
    return `#${parts}`;
  };

  /** The link of one pair, without the list that it was found in. */
  RMT.pairHash = (state, pair) => {
    const own = { ...RMT.emptyState(), view: "pairs", model: state.model, against: state.against, pair };
    return RMT.stateHash(own);
  };
})();
