"use strict";
/* Which words of two texts are in both, in order (Myers 1986), and how they are marked. */
(() => {
  const WORD = /\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}\p{M}_'’]+|[^\s\p{L}\p{N}]/gu;
  const MOST_TOKENS = 30000;
  const MOST_CHANGES = 2500; // its square bounds the time, about a tenth of a second
  const ALIKE = 0.3; // below, marks would be on almost everything

  const tokens = (strings) => strings.flatMap((text) => text.match(WORD) || []);

  const numbered = (words, numbers) =>
    Int32Array.from(words, (word) => {
      if (!numbers.has(word)) numbers.set(word, numbers.size);
      return numbers.get(word);
    });

  /** Steps of the shortest way from one sequence to the other, or null where it has too many. */
  const trace = (a, b) => {
    const reach = [];
    let front = new Int32Array(2 * MOST_CHANGES + 3);
    for (let changes = 0; changes <= Math.min(MOST_CHANGES, a.length + b.length); changes++) {
      reach.push(front.slice(MOST_CHANGES + 1 - changes - 1, MOST_CHANGES + 1 + changes + 2));
      for (let k = -changes; k <= changes; k += 2) {
        const at = MOST_CHANGES + 1 + k;
        let x = k === -changes || (k !== changes && front[at - 1] < front[at + 1]) ? front[at + 1] : front[at - 1] + 1;
        while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
        front[at] = x;
        if (x >= a.length && x - k >= b.length) return { reach, changes };
      }
    }
    return null;
  };

  const common = (a, b) => {
    const inA = new Uint8Array(a.length);
    const inB = new Uint8Array(b.length);
    const found = trace(a, b);
    if (!found) return null;
    let x = a.length;
    let y = b.length;
    for (let changes = found.changes; changes >= 0; changes--) {
      const front = found.reach[changes];
      const at = (k) => front[k + changes + 1];
      const k = x - y;
      const down = k === -changes || (k !== changes && at(k - 1) < at(k + 1));
      const before = changes === 0 ? 0 : down ? at(k + 1) : at(k - 1);
      const startX = changes === 0 ? 0 : down ? before : before + 1;
      while (x > startX) { x--; y--; inA[x] = 1; inB[y] = 1; }
      if (changes === 0) break;
      if (down) y--;
      else x--;
    }
    return { inA, inB };
  };

  const share = (words, same) => {
    let all = 0;
    let equal = 0;
    words.forEach((word, k) => {
      if (!/\S/.test(word)) return;
      all += word.length;
      if (same[k]) equal += word.length;
    });
    return { all, equal };
  };

  /** A common word alone between changes says nothing, and space between two changed words belongs to them. */
  const smooth = (words, same) => {
    let k = 0;
    while (k < words.length) {
      let end = k;
      while (end < words.length && same[end] === same[k]) end++;
      const inside = k > 0 && end < words.length;
      const real = words.slice(k, end).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
      if (same[k] && inside && real < 2) same.fill(0, k, end);
      k = end;
    }
  };

  /** Draws one string up to a number of characters, changed words as marks. */
  const painter = (words, same, first, count, name) => (parent, limit) => {
    let drawn = 0;
    let k = first;
    while (k < first + count && drawn < limit) {
      let end = k;
      let run = "";
      while (end < first + count && same[end] === same[k] && drawn + run.length < limit) run += words[end++];
      if (limit < drawn + run.length) run = run.slice(0, limit - drawn);
      if (same[k]) RMT.appendText(parent, run);
      else {
        const mark = RMT.el("mark", { class: name });
        RMT.appendText(mark, run);
        parent.append(mark);
      }
      drawn += run.length;
      k = end;
    }
  };

  const painters = (strings, words, same, name) => {
    let first = 0;
    return strings.map((text) => {
      const count = (text.match(WORD) || []).length;
      const paint = painter(words, same, first, count, name);
      first += count;
      return paint;
    });
  };

  /** Compares two texts: painters of their strings, and which share of their words is common; null for huge ones. */
  RMT.compare = (one, other) => {
    const strings = [RMT.strings(one), RMT.strings(other)];
    if (strings.flat().reduce((sum, text) => sum + text.length, 0) > 40 * RMT.LONGEST) return null;
    const words = strings.map(tokens);
    if (Math.max(words[0].length, words[1].length) > MOST_TOKENS) return null;
    const numbers = new Map();
    const found = common(numbered(words[0], numbers), numbered(words[1], numbers));
    if (!found) return null;
    const { inA, inB } = found;
    const [a, b] = [share(words[0], inA), share(words[1], inB)];
    const alike = a.all + b.all ? (a.equal + b.equal) / (a.all + b.all) : 1;
    smooth(words[0], inA);
    smooth(words[1], inB);
    return {
      alike,
      worthwhile: alike >= ALIKE,
      marks: [painters(strings[0], words[0], inA, "only-chosen"), painters(strings[1], words[1], inB, "only-rejected")],
    };
  };
})();
