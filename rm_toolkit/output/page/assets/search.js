"use strict";
/* Full-text search: every word or "quoted phrase" must stand in the prompt or in one of the responses of a pair. */
(() => {
  const SLICE = 30; // milliseconds of work before the page may answer the reader
  const MOST_TERMS = 30; // bits of a mask

  RMT.searchTerms = (query) =>
    [...query.toLowerCase().matchAll(/"([^"]+)"?|(\S+)/g)].map((found) => found[1] || found[2]).filter((term) => term !== '"').slice(0, MOST_TERMS);

  const bits = (value, terms) => {
    const text = RMT.strings(value).join("\n").toLowerCase();
    return terms.reduce((mask, term, k) => (text.includes(term) ? mask | (1 << k) : mask), 0);
  };

  const pause = () => new Promise((resolve) => setTimeout(resolve));

  let running = 0;

  RMT.stopSearch = () => { running++; };

  /**
   * Looks through all texts, block after block. `onProgress(share)` is called as it goes; gives a mark for each pair, or
   * null where a later search has begun.
   */
  RMT.search = async (index, query, onProgress) => {
    const turn = ++running;
    const terms = RMT.searchTerms(query);
    const masks = new Uint32Array(index.numTexts);
    let begin = performance.now();
    for (let number = 0; number < index.textStarts.length; number++) {
      const block = await RMT.block(`texts-${number}`);
      const prompts = new Map();
      const promptBits = (k) => {
        if (!prompts.has(k)) prompts.set(k, bits(block.prompts[k][0], terms) | (block.prompts[k][1] ? bits([block.prompts[k][1]], terms) : 0));
        return prompts.get(k);
      };
      for (let k = 0; k < block.texts.length; k++) {
        masks[index.textStarts[number] + k] = promptBits(block.texts[k][0]) | bits(block.texts[k][1], terms);
        if (performance.now() - begin > SLICE) {
          await pause();
          if (turn !== running) return null;
          begin = performance.now();
        }
      }
      if (turn !== running) return null;
      onProgress((number + 1) / index.textStarts.length);
    }
    const all = terms.length === 0 ? 0 : 2 ** terms.length - 1;
    const hits = new Uint8Array(index.numPairs);
    for (let pair = 0; pair < index.numPairs; pair++) {
      hits[pair] = ((masks[index.better[pair]] | masks[index.worse[pair]]) >>> 0) === all ? 1 : 0;
    }
    return hits;
  };
})();
