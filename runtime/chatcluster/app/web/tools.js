// The actions on one message: one toolbar for all of them, which goes where the pointer or the focus is.

import { h, icon } from "./dom.js";

const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "👏", "🙏", "🔥", "👀", "✅", "❌", "🤔", "😍", "😅", "😴", "🚀", "☕", "💡", "🐛", "🥳", "👋", "💯", "🙈"];
const COLUMNS = 6;

export class Tools {
  #root;
  #actions;
  #mayDelete;
  #bar;
  #picker;
  #smile;

  /** root: the log; actions: reply, edit, remove (message) and react(message, emoji); mayDelete(message) -> bool. */
  constructor({ root, actions, mayDelete }) {
    this.#root = root;
    this.#actions = actions;
    this.#mayDelete = mayDelete;
    this.#bar = this.#build();
    const point = (event) => this.#point(event.target.closest?.(".msg"));
    for (const kind of ["pointerover", "focusin", "click"]) root.addEventListener(kind, point);
    root.addEventListener("pointerleave", () => {
      if (!this.#at?.contains(document.activeElement)) this.close();
    });
  }

  /** A message was drawn anew: what was on it stays on it, with the focus. */
  move(old, element) {
    if (!old?.contains(this.#bar)) return;
    const focused = document.activeElement;
    const inside = this.#bar.contains(focused);
    if (this.#equip(element)) element.append(this.#bar);
    else this.close();
    if (inside) queueMicrotask(() => (this.#bar.isConnected ? focused : element).focus({ preventScroll: true }));
  }

  close() {
    this.#pick(false);
    this.#bar.remove();
  }

  get #at() {
    return this.#bar.parentElement;
  }

  get #shown() {
    return this.#at.item.shown;
  }

  #build() {
    const button = (name, label, run) => h("button", { class: `tool ${name}`, type: "button", "aria-label": label, title: label, on: { click: run } }, icon(name));
    this.#picker = h("div", { class: "picker", role: "group", "aria-label": "Choose a reaction", hidden: true });
    for (const emoji of EMOJI) {
      this.#picker.append(h("button", { type: "button", text: emoji, "aria-label": `React with ${emoji}`, on: { click: () => this.#react(emoji) } }));
    }
    this.#smile = button("smile", "React", () => this.#pick(this.#picker.hidden));
    this.#smile.setAttribute("aria-expanded", "false");
    const bar = h(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "Message actions" },
      this.#smile,
      button("reply", "Reply", () => this.#act("reply")),
      button("edit", "Edit", () => this.#act("edit")),
      button("trash", "Delete", (event) => this.#remove(event.currentTarget)),
      this.#picker,
    );
    bar.addEventListener("keydown", (event) => this.#keys(event));
    return bar;
  }

  #point(element) {
    if (!element || this.#at === element) return;
    if (this.#bar.contains(document.activeElement) && !element.contains(document.activeElement)) return;
    this.close();
    if (this.#equip(element)) element.append(this.#bar);
  }

  /** Fit the bar to a message; false where nothing can be done with it. */
  #equip({ item }) {
    if (!item?.message || item.shown.gone || item.shown.deleted) return false;
    this.#bar.querySelector(".edit").hidden = !item.own;
    const trash = this.#bar.querySelector(".trash");
    trash.hidden = !this.#mayDelete(item.shown);
    this.#label(trash, "Delete", false);
    return true;
  }

  #label(button, label, sure) {
    button.classList.toggle("sure", sure);
    button.setAttribute("aria-label", label);
    button.title = label;
  }

  #pick(open) {
    this.#picker.hidden = !open;
    this.#smile.setAttribute("aria-expanded", String(open));
    if (!open) return;
    const room = this.#bar.getBoundingClientRect().top - this.#root.getBoundingClientRect().top;
    this.#picker.classList.toggle("below", room < 190);
    this.#picker.firstChild.focus({ preventScroll: true });
  }

  #react(emoji) {
    const shown = this.#shown;
    this.#pick(false);
    this.#at.focus({ preventScroll: true });
    this.#actions.react(shown, emoji);
  }

  #act(name) {
    const shown = this.#shown;
    this.close();
    this.#actions[name](shown);
  }

  // Deleting asks once, in place: the button has to be pressed twice.
  #remove(button) {
    if (button.classList.contains("sure")) this.#act("remove");
    else this.#label(button, "Press again to delete", true);
  }

  #keys(event) {
    const inPicker = this.#picker.contains(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: inPicker ? COLUMNS : 0, ArrowUp: inPicker ? -COLUMNS : 0 }[event.key];
    if (step) {
      const all = [...(inPicker ? this.#picker : this.#bar).querySelectorAll(":scope > button:not([hidden])")];
      all[Math.min(all.length - 1, Math.max(0, all.indexOf(event.target) + step))].focus();
    } else if (event.key === "Escape") {
      const open = !this.#picker.hidden;
      if (open) this.#pick(false);
      (open ? this.#smile : this.#at).focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
