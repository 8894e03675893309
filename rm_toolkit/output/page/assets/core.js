"use strict";
/* Elements are made from text alone; nothing of the data is ever read as HTML. */
const RMT = (window.RMT = {});

/** An element: `props` are attributes, `on…` listeners and `text`; children are elements or strings. */
RMT.el = (tag, props = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

/** Text with `code` and **bold** words, as Markdown writes them. */
RMT.inline = (text) =>
  text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.length > 2 && part[0] === "`") return RMT.el("code", { text: part.slice(1, -1) });
    if (part.length > 4 && part.startsWith("**")) return RMT.el("strong", { text: part.slice(2, -2) });
    return document.createTextNode(part);
  });

/** A command, whose options are not broken after their hyphens. */
RMT.command = (text) =>
  text.split(/((?<=\s)-[\w-]{1,40}(?=[\s=]|$))/).map((part, k) => (k % 2 ? RMT.el("span", { class: "whole", text: part }) : part));

RMT.count = (number) => number.toLocaleString("en-US");

RMT.plural = (number, one) => `${RMT.count(number)} ${one}${number === 1 ? "" : "s"}`;

/** A number with a true minus and so many decimals. */
RMT.fixed = (value, digits = 2, sign = false) => {
  const text = Math.abs(value).toFixed(digits);
  if (value < 0) return `−${text}`;
  return sign && value > 0 ? `+${text}` : text;
};

/** Says something for a moment, to screen readers too. */
RMT.say = (message) => {
  let box = document.getElementById("toast");
  if (!box) document.body.append((box = RMT.el("div", { id: "toast", role: "status" })));
  box.textContent = message;
  box.classList.add("shown");
  clearTimeout(RMT.say.timer);
  RMT.say.timer = setTimeout(() => box.classList.remove("shown"), 2200);
};

/** Puts a text on the clipboard; pages opened from disk may have to do it by selection. */
RMT.copy = async (text, what) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = RMT.el("textarea", { class: "off-screen", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return RMT.say("The browser does not let this page copy.");
  }
  RMT.say(`${what} copied`);
};
