// Makes elements. Text only ever becomes text nodes: nothing here can turn a message into markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("button", {class, text, on: {click}, ...attributes}, ...children). False and null attributes are left out. */
export function h(tag, { class: className, text, on, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text != null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [name, listener] of Object.entries(on ?? {})) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** An icon of the sprite in index.html; `label` says it aloud, else it is decoration. */
export function icon(name, label) {
  const svg = document.createElementNS(SVG, "svg");
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
  } else {
    svg.setAttribute("aria-hidden", "true");
  }
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const byId = (id) => document.getElementById(id);

/** A round sign for a person or group; `status` puts a presence dot on it. */
export function avatar(key, name, { status, group = false, small = false } = {}) {
  const sign = h("span", { class: `avatar hue-${hue(key)}${group ? " group" : ""}${small ? " small" : ""}`, "aria-hidden": "true", text: initials(name) });
  if (!status) return sign;
  return h("span", { class: "avatar-box" }, sign, h("span", { class: `dot ${status}`, role: "img", "aria-label": status, title: status }));
}

function hue(key) {
  let sum = 2166136261; // FNV-1a, folded: names that look alike get different colours
  for (let at = 0; at < key.length; at++) sum = Math.imul(sum ^ key.charCodeAt(at), 16777619);
  return ((sum ^ (sum >>> 15) ^ (sum >>> 24)) >>> 0) % 8;
}

function initials(name) {
  const words = name.trim().split(/[\s\-_.]+/u).filter(Boolean);
  const first = (word) => [...(word ?? "")][0] ?? "";
  return (words.length > 1 ? first(words[0]) + first(words.at(-1)) : [...(words[0] ?? "?")].slice(0, 2).join("")).toUpperCase();
}

/** Keeps the children of `parent` equal to `items` by key; `make(item, old)` returns the element for an item. */
export function reconcile(parent, items, keyOf, signOf, make) {
  const old = (parent.keyed ??= new Map());
  const next = new Map();
  let at = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const sign = signOf(item);
    let held = old.get(key);
    if (!held || held.sign !== sign) {
      const element = make(item, held?.element);
      if (held && held.element !== element) {
        if (at === held.element) at = element;
        held.element.replaceWith(element);
      }
      held = { element, sign };
    }
    next.set(key, held);
    old.delete(key);
    if (held.element === at) at = at.nextSibling;
    else parent.insertBefore(held.element, at);
  }
  for (const { element } of old.values()) element.remove();
  parent.keyed = next;
}
