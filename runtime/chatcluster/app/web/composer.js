// Where a message is written: drafts per conversation, replying, editing, the limit in bytes.

import { byId } from "./dom.js";
import { oneLine } from "./text.js";

const encoder = new TextEncoder();

export class Composer {
  #session;
  #people;
  #hooks;
  #form = byId("composer");
  #input = byId("input");
  #drafts;
  #key;
  #channel = null;
  #reply = null;
  #edit = null;

  /** hooks: sent(), editLast() -> message or null, leaveInput(). */
  constructor({ session, people, hooks }) {
    this.#session = session;
    this.#people = people;
    this.#hooks = hooks;
    this.#key = `chatcluster:${session.me}:drafts`;
    try {
      this.#drafts = JSON.parse(sessionStorage.getItem(this.#key) ?? "{}");
    } catch {
      this.#drafts = {};
    }
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#input.addEventListener("input", () => this.#typed());
    this.#input.addEventListener("keydown", (event) => this.#keys(event));
    byId("context-close").addEventListener("click", () => this.cancel());
  }

  /** Write in another conversation. */
  show(channel) {
    if (this.#channel === channel) return;
    this.#edit = this.#reply = null;
    this.#channel = channel;
    this.#input.value = this.#drafts[channel] ?? "";
    this.#context();
    this.#fit();
  }

  /** A hint of why nothing can be written, or null. */
  lock(reason) {
    this.#input.disabled = Boolean(reason);
    this.#input.placeholder = reason ?? "Message";
    this.#fit();
  }

  focus() {
    this.#input.focus({ preventScroll: true });
  }

  reply(message) {
    this.#edit = null;
    this.#reply = message;
    this.#context();
    this.focus();
  }

  edit(message) {
    this.#edit = message;
    this.#reply = null;
    this.#input.value = message.body;
    this.#context();
    this.#fit();
    this.focus();
    this.#input.setSelectionRange(message.body.length, message.body.length);
  }

  /** Take a discarded text back, unless something else is being written. */
  restore(body) {
    if (this.#input.value) return;
    this.#input.value = body;
    this.#typed();
  }

  /** End an edit or a reply; false when there was none. */
  cancel() {
    if (!this.#edit && !this.#reply) return false;
    if (this.#edit) this.#input.value = this.#drafts[this.#channel] ?? "";
    this.#edit = this.#reply = null;
    this.#context();
    this.#fit();
    this.focus();
    return true;
  }

  #submit() {
    const body = this.#input.value.trim();
    if (!body || this.#over() || this.#input.disabled) return;
    const { id } = this.#edit ?? {};
    const done = id
      ? body === this.#edit.body || this.#session.edit(this.#channel, id, body)
      : this.#session.send(this.#channel, body, this.#reply?.id);
    this.#problem(done ? null : "Too many messages wait to be sent.");
    if (!done) return;
    this.#input.value = id ? this.#drafts[this.#channel] ?? "" : "";
    this.#edit = this.#reply = null;
    if (!id) this.#save("");
    this.#context();
    this.#fit();
    this.focus();
    this.#hooks.sent();
  }

  #typed() {
    if (!this.#edit) this.#save(this.#input.value);
    if (this.#input.value.trim()) this.#session.typing(this.#channel);
    this.#problem(null);
    this.#fit();
  }

  #save(text) {
    if (text) this.#drafts[this.#channel] = text;
    else delete this.#drafts[this.#channel];
    try {
      sessionStorage.setItem(this.#key, JSON.stringify(this.#drafts));
    } catch {
      // The storage is full: the draft lives as long as the page.
    }
  }

  #keys(event) {
    if (event.isComposing || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && !this.#input.value && !this.#edit) {
      const message = this.#hooks.editLast();
      if (!message) return;
      event.preventDefault();
      this.edit(message);
    } else if (event.key === "Escape" && this.cancel()) {
      event.stopPropagation();
    } else if (event.key === "PageUp" && !this.#input.value) {
      event.preventDefault();
      this.#hooks.leaveInput();
    }
  }

  #over() {
    return encoder.encode(this.#input.value.trim()).length > this.#session.client.limits.max_body_bytes;
  }

  #context() {
    const bar = byId("context");
    const about = this.#edit ?? this.#reply;
    bar.hidden = !about;
    this.#form.classList.toggle("editing", Boolean(this.#edit));
    byId("send").setAttribute("aria-label", this.#edit ? "Save" : "Send");
    if (!about) return;
    bar.querySelector("use").setAttribute("href", this.#edit ? "#i-edit" : "#i-reply");
    byId("context-text").textContent = this.#edit ? "Editing your message" : `${this.#people.name(about.sender)}: ${oneLine(about.body, 90)}`;
    byId("context-close").setAttribute("aria-label", this.#edit ? "Cancel editing" : "Cancel the reply");
  }

  // The field grows with its text, up to what the style sheet allows.
  #fit() {
    const input = this.#input;
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight}px`;
    const bytes = encoder.encode(input.value).length;
    const most = this.#session.client.limits.max_body_bytes;
    const length = byId("length");
    length.hidden = bytes < most * 0.8;
    length.textContent = `${bytes} / ${most}`;
    length.classList.toggle("over", bytes > most);
    byId("send").disabled = input.disabled || !input.value.trim() || this.#over();
  }

  #problem(text) {
    const problem = byId("composer-problem");
    problem.hidden = !text;
    problem.textContent = text ?? "";
  }
}
