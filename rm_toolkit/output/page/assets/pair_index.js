"use strict";
/* The numbers of all pairs in typed arrays, and which of them are shown in which order. */
(() => {
  const TAGS = ["domain", "source", "rejected_domain"];

  const openModel = ({ name, chosen, rejected, cut, lengths }) => {
    const model = { name, chosen: RMT.unpack(chosen), rejected: RMT.unpack(rejected), cut: cut && RMT.unpack(cut) };
    model.lengths = lengths && lengths.map(RMT.unpack);
    model.margin = Float64Array.from(model.chosen, (reward, k) => reward - model.rejected[k]);
    return model;
  };

  RMT.sigmoid = (margin) => 1 / (1 + Math.exp(-margin));

  /** The arrays of a page's block of numbers. */
  RMT.openIndex = (block) => {
    const index = {
      sets: [], setOf: null, numTexts: block.numTexts, models: block.models.map(openModel),
      textStarts: block.textStarts, promptsABlock: block.promptsABlock,
      ratioEdges: block.ratioEdges, ratioNames: block.ratioNames, tags: {}, tagNames: [],
    };
    for (const name of ["better", "worse", "prompt", "length"]) index[name] = RMT.unpack(block[name]);
    index.wanted = block.wanted && RMT.unpack(block.wanted);
    index.numPairs = index.better.length;
    let start = 0;
    for (const { name, pairs } of block.sets) {
      index.sets.push({ name, start, end: start + pairs });
      start += pairs;
    }
    for (const tag of TAGS.filter((name) => block.tags[name])) {
      index.tags[tag] = { values: block.tags[tag].values, codes: RMT.unpack(block.tags[tag].codes) };
      index.tagNames.push(tag);
    }
    return index;
  };

  RMT.setOf = (index, pair) => index.sets.find((set) => pair < set.end);

  RMT.tagOf = (index, tag, pair) => {
    const column = index.tags[tag];
    const code = column ? column.codes[pair] : 0;
    return code ? column.values[code - 1] : null;
  };

  /** Name of a pair in an address: that of its set and its number there. */
  RMT.pairName = (index, pair) => {
    const set = RMT.setOf(index, pair);
    return `${set.name}/${pair - set.start}`;
  };

  RMT.findPair = (index, name) => {
    const at = name.lastIndexOf("/");
    const set = index.sets.find((own) => own.name === name.slice(0, at));
    const number = Number(name.slice(at + 1));
    return set && Number.isInteger(number) && number >= 0 && number < set.end - set.start ? set.start + number : -1;
  };

  /** Characters of the chosen and of the rejected response, as a model reads them. */
  RMT.lengthsOf = (index, pair, { lengths }) =>
    lengths ? lengths.map((side) => side[pair]) : ["better", "worse"].map((side) => index.length[index[side][pair]]);

  RMT.ratioOf = (index, pair, model) => {
    const [chosen, rejected] = RMT.lengthsOf(index, pair, model);
    return Math.max(1, chosen) / Math.max(1, rejected);
  };

  const ratioBin = (index, pair, model) => {
    const ratio = RMT.ratioOf(index, pair, model);
    let bin = 0;
    while (bin < index.ratioEdges.length && ratio >= index.ratioEdges[bin]) bin++;
    return bin;
  };

  /** Verdicts of a pair; those of two models where another one is compared with. */
  const VERDICTS = {
    wrong: (a) => a < 0,
    right: (a) => a > 0,
    tie: (a) => a === 0,
    "only-first": (a, b) => a > 0 && b <= 0,
    "only-second": (a, b) => a <= 0 && b > 0,
    both: (a, b) => a < 0 && b < 0,
  };

  const KEYS = {
    worst: (a) => a,
    best: (a) => -a,
    unsure: (a) => Math.abs(a),
    disputed: (a, b) => -Math.abs(RMT.sigmoid(a) - RMT.sigmoid(b)),
    file: () => 0,
  };

  /** Tests of a pair, those that the state asks for alone. */
  const tests = (index, state, models, hits) => {
    const [own, other] = models.map(({ margin }) => margin);
    const found = [];
    const set = state.set && index.sets.find(({ name }) => name === state.set);
    if (state.set) found.push(set ? (pair) => pair >= set.start && pair < set.end : () => false);
    for (const tag of index.tagNames) {
      if (!state[tag]) continue;
      const code = index.tags[tag].values.indexOf(state[tag]) + 1;
      found.push(code ? (pair) => index.tags[tag].codes[pair] === code : () => false);
    }
    const verdict = VERDICTS[state.verdict];
    if (verdict) found.push((pair) => verdict(own[pair], other[pair]));
    if (state.ratio !== "") found.push((pair) => ratioBin(index, pair, models[0]) === Number(state.ratio));
    if (state.min !== "") found.push((pair) => own[pair] >= Number(state.min));
    if (state.max !== "") found.push((pair) => own[pair] <= Number(state.max));
    if (state.prompt !== "") found.push((pair) => index.prompt[pair] === Number(state.prompt));
    if (hits) found.push((pair) => hits[pair]);
    return found;
  };

  /** The two models that are looked at; the second is the first one where there is no other. */
  RMT.chosenModels = (index, state) => {
    const find = (name) => index.models.find((model) => model.name === name);
    const first = find(state.model) || index.models[0];
    return [first, find(state.against) || index.models.find((model) => model !== first) || first];
  };

  /** Numbers of the pairs that are shown, in order; `hits` marks those that a search has found. */
  RMT.selectPairs = (index, state, hits) => {
    const models = RMT.chosenModels(index, state);
    const [own, other] = models.map(({ margin }) => margin);
    const asked = tests(index, state, models, hits);
    const kept = new Uint32Array(index.numPairs);
    let count = 0;
    for (let pair = 0; pair < index.numPairs; pair++) if (asked.every((test) => test(pair))) kept[count++] = pair;
    const order = kept.subarray(0, count);
    const key = KEYS[state.sort] || KEYS.worst;
    if (state.sort !== "file") {
      const keys = new Float64Array(index.numPairs);
      for (const pair of order) keys[pair] = key(own[pair], other[pair]);
      order.sort((a, b) => keys[a] - keys[b] || a - b);
    }
    return order;
  };

  /** What is said of the pairs that are shown: how many are right, and their mean margin. */
  RMT.summarize = (order, { margin }) => {
    let right = 0;
    let sum = 0;
    for (const pair of order) {
      right += margin[pair] > 0 ? 1 : margin[pair] === 0 ? 0.5 : 0;
      sum += margin[pair];
    }
    return { count: order.length, accuracy: right / order.length, mean: sum / order.length };
  };

  /** Prompt, responses and what a chat template reads beside them. */
  RMT.readTexts = async (index, pair) => {
    const read = async (text) => {
      let low = 0;
      let high = index.textStarts.length;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (index.textStarts[middle] <= text) low = middle;
        else high = middle;
      }
      const block = await RMT.block(`texts-${low}`);
      const [prompt, completion] = block.texts[text - index.textStarts[low]];
      return { prompt: block.prompts[prompt][0], template: block.prompts[prompt][1], completion };
    };
    const [chosen, rejected] = [await read(index.better[pair]), await read(index.worse[pair])];
    return { prompt: chosen.prompt, template: chosen.template, chosen: chosen.completion, rejected: rejected.completion };
  };

  /** Id and first words of a prompt. */
  RMT.readPrompt = async (index, pair) => {
    const number = index.prompt[pair];
    const block = await RMT.block(`prompts-${Math.floor(number / index.promptsABlock)}`);
    const place = number % index.promptsABlock;
    return { id: block.ids[place], excerpt: block.excerpts[place] };
  };
})();
