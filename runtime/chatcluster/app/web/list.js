// The conversation list: what is where, what is new. Draws; decides nothing.

import { avatar, byId, h, reconcile } from "./dom.js";
import { count, oneLine, when } from "./text.js";
import { view } from "./store.js";

export class List {
  #session;
  #people;
  #open;
  #root = byId("rooms");

  /** open(channel id): the person chose one. */
  constructor({ session, people, open }) {
    this.#session = session;
    this.#people = people;
    this.#open = open;
    byId("search").addEventListener("input", () => this.draw());
  }

  /** What is listed now, top to bottom: for Alt+Up and Alt+Down. */
  shown() {
    const wanted = byId("search").value.trim().toLocaleLowerCase();
    const all = this.#session.store.list();
    return wanted ? all.filter((channel) => this.#people.title(channel).toLocaleLowerCase().includes(wanted)) : all;
  }

  draw() {
    const { store, open } = this.#session;
    const rows = this.shown().map((channel) => ({
      channel,
      title: this.#people.title(channel),
      status: channel.peer && channel.peer !== store.me ? store.presence.get(channel.peer)?.status ?? "offline" : null,
      unread: channel.id === open && document.hasFocus() ? 0 : store.unread(channel),
      open: channel.id === open,
      ...this.#preview(channel),
    }));
    reconcile(
      this.#root,
      rows,
      ({ channel }) => channel.id,
      ({ title, status, unread, open: here, text, time, typing }) => JSON.stringify([title, status, unread, here, text, time, typing]),
      (row, old) => this.#row(row, old),
    );
    const note = byId("rooms-empty") ?? this.#root.parentElement.insertBefore(h("p", { id: "rooms-empty", class: "hint rooms-empty" }), this.#root.nextSibling);
    note.hidden = rows.length > 0;
    note.textContent = byId("search").value ? "No conversation has that name." : this.#session.listed ? "No conversations yet." : "Loading…";
    return rows.reduce((sum, { unread }) => sum + (unread > 0 ? 1 : 0), 0);
  }

  #preview(channel) {
    const { store, outbox } = this.#session;
    const typing = store.typers(channel).length > 0;
    const waiting = outbox.sendsOf(channel.id).at(-1);
    const last = store.last(channel);
    const shown = last ? view(last) : channel.preview && { ...channel.preview, deleted: channel.preview.deleted };
    if (waiting && !channel.keys.has(`${store.me}\n${waiting.fields.client_id}`)) {
      const words = waiting.state === "failed" ? "Not sent: " : "Sending: ";
      return { typing, time: new Date(waiting.created).toISOString(), text: words + oneLine(waiting.fields.body, 80) };
    }
    if (!shown) return { typing, time: null, text: "" };
    const who = shown.sender === store.me ? "You: " : channel.kind === "direct" ? "" : `${this.#people.first(shown.sender)}: `;
    return { typing, time: shown.time, text: shown.deleted ? "Message deleted" : who + oneLine(shown.body, 80) };
  }

  #row(row, old) {
    const { channel, title, unread } = row;
    const label = [title, unread ? `${unread} unread` : "", row.status && row.status !== "offline" ? row.status : ""].filter(Boolean).join(", ");
    const button = h(
      "button",
      { class: "room", type: "button", "aria-current": row.open ? "true" : false, "aria-label": label, "data-channel": channel.id, on: { click: () => this.#open(channel.id) } },
      avatar(channel.peer ?? channel.id, title, { status: row.status, group: !channel.peer }),
      h(
        "span",
        { class: "room-text" },
        h("span", { class: "room-top" }, h("span", { class: "room-title", dir: "auto", text: title }), row.time && h("time", { datetime: row.time, text: when(row.time) })),
        h(
          "span",
          { class: "room-bottom" },
          row.typing ? h("span", { class: "room-preview typing-now", text: "typing…" }) : h("span", { class: "room-preview", dir: "auto", text: row.text || (channel.members > 2 ? `${count(channel.members)} members` : "") }),
          unread > 0 && h("span", { class: "badge", text: unread > 99 ? "99+" : String(unread) }),
        ),
      ),
    );
    // A redrawn row keeps the focus it had.
    if (old?.firstChild === document.activeElement) queueMicrotask(() => button.focus({ preventScroll: true }));
    return h("li", {}, button);
  }
}
