"use strict";
/* Data by name: from the page itself, or from a script beside it that is loaded when it is asked for. */
(() => {
  const MOST_KEPT = 80; // of texts a block has about half a megabyte
  const kept = new Map();
  const waiting = new Map();
  let places = null;

  const inPage = (name) => {
    const element = document.getElementById(`data-${name}`);
    return element && JSON.parse(element.textContent);
  };

  RMT.receive = (name, value) => waiting.get(name)?.resolve(value);

  const fromFile = (name) => {
    if (!waiting.has(name)) {
      const request = {};
      request.promise = new Promise((resolve, reject) => Object.assign(request, { resolve, reject }));
      waiting.set(name, request);
      const script = RMT.el("script", { src: `${places.folder}/${name}.js` });
      script.onerror = () => request.reject(new Error(`${script.getAttribute("src")} cannot be read`));
      request.promise.finally(() => { waiting.delete(name); script.remove(); }).catch(() => {});
      document.head.append(script);
    }
    return waiting.get(name).promise;
  };

  /** A block, from memory if it was read lately. */
  RMT.block = async (name) => {
    if (kept.has(name)) {
      const value = kept.get(name);
      kept.delete(name);
      kept.set(name, value);
      return value;
    }
    const value = places.folder ? await fromFile(name) : inPage(name);
    kept.set(name, value);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    return value;
  };

  RMT.openBlocks = () => {
    places = inPage("places");
    return inPage("content");
  };

  const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

  /** A typed array of a column packed by Python; the bytes are little-endian, as all machines with browsers are. */
  RMT.unpack = (column) => {
    const text = atob(column.data);
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    return new ARRAYS[column.type](bytes.buffer);
  };
})();
