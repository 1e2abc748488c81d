// The messages of the open conversation: drawing, scrolling, paging.

import { compareIds } from "./ids.js";
import { avatar, byId, h, icon, reconcile } from "./dom.js";
import { view } from "./store.js";
import { bodyNodes, clockTime, count, dayName, fullTime, names, oneLine, onlyEmoji, sameDay } from "./text.js";
import { Tools } from "./tools.js";

const GROUP_MS = 5 * 60_000; // messages of one sender this close stand together
const NEAR_PX = 90; // so close to the end counts as being there
const AHEAD_PX = 600; // pages are asked for before they are needed

export class Log {
  #session;
  #people;
  #actions;
  #root = byId("log");
  #jump = byId("jump");
  #tools;
  #divider = null; // newest message that was read when the conversation was opened
  #stuck = true;
  #missed = 0;
  #lastShown = null;
  #quotes = new Map();
  #channel = null;

  /** actions: reply(message), edit(message), remove(message), react(message, emoji), retry(client_id), discard(client_id). */
  constructor({ session, people, actions }) {
    this.#session = session;
    this.#people = people;
    this.#actions = actions;
    const admins = () => ["owner", "admin"].includes(session.store.channel(this.#channel).role);
    this.#tools = new Tools({ root: this.#root, actions, mayDelete: ({ sender }) => sender === session.me || admins() });
    this.#root.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#root.addEventListener("keydown", (event) => this.#keys(event));
    this.#jump.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#stuck && this.#bottom()).observe(this.#root);
  }

  /** Show another conversation, from its newest message. */
  show(id) {
    const channel = this.#session.store.channel(id);
    if (this.#channel !== id) {
      this.#channel = id;
      this.#divider = this.#session.store.unread(channel) ? channel.read ?? "0" : null;
      this.#stuck = true;
      this.#missed = 0;
      this.#lastShown = null;
      this.#quotes.clear();
      this.#tools.close();
      this.#root.setAttribute("aria-live", "off"); // what was there already is not read aloud
      this.#root.keyed = new Map();
      this.#root.replaceChildren();
    }
    this.draw();
    setTimeout(() => this.#channel === id && this.#root.setAttribute("aria-live", "polite"), 600);
  }

  /** The "New" line has done its work. */
  clearDivider() {
    if (this.#divider == null) return;
    this.#divider = null;
    this.draw();
  }

  async toEnd() {
    await this.#session.latest(this.#channel);
    this.#stuck = true;
    this.draw();
    this.#bottom();
  }

  draw() {
    const id = this.#channel;
    if (!id || id !== this.#session.open) return;
    const channel = this.#session.store.channel(id);
    const anchor = this.#stuck ? null : this.#anchor();
    const items = this.#items(channel);
    reconcile(this.#root, items, (item) => item.key, (item) => item.sign, (item, old) => this.#make(item, old));
    const newest = items.findLast((item) => item.message)?.message.id ?? null;
    if (!this.#stuck && newest && this.#lastShown && compareIds(newest, this.#lastShown) > 0) {
      this.#missed += items.filter((item) => item.message && compareIds(item.message.id, this.#lastShown) > 0).length;
    }
    this.#lastShown = newest ?? this.#lastShown;
    if (this.#stuck) this.#bottom();
    else if (anchor?.element.isConnected) this.#root.scrollTop += anchor.element.offsetTop - anchor.top;
    this.#after(channel);
  }

  /** The person sees the end of the conversation: what is there has been read. */
  look() {
    if (!this.#channel || this.#channel !== this.#session.open || !this.#stuck || document.hidden || !document.hasFocus()) return;
    const channel = this.#session.store.channel(this.#channel);
    if (channel.floor == null || channel.ceil || channel.left) return;
    const last = this.#session.store.last(channel);
    if (last) this.#session.read(channel.id, last.id);
  }

  /** The newest own message that can be edited, as people see it. */
  lastOwn() {
    const { store } = this.#session;
    const own = store.visible(store.channel(this.#channel)).findLast((message) => message.base.sender === store.me && !message.gone && !view(message).deleted);
    return own ? view(own) : null;
  }

  focusLast() {
    [...this.#root.querySelectorAll(".msg")].at(-1)?.focus();
  }

  // -- what to draw ----------------------------------------------------------------------------------------

  #items(channel) {
    const { store, outbox, client } = this.#session;
    const items = [];
    if (channel.floor === "0") items.push({ key: "start", sign: `start ${this.#people.title(channel)}`, start: this.#people.title(channel), direct: channel.kind === "direct" });
    else items.push({ key: "older", sign: `older ${channel.floor == null} ${client.ready}`, older: true });
    const seen = this.#seen(channel);
    let before = null;
    let divided = this.#divider == null;
    const push = (shown, message, item) => {
      if (!before || !sameDay(before.time, shown.time)) {
        items.push({ key: `day ${shown.time.slice(0, 10)} ${dayName(shown.time)}`, sign: dayName(shown.time), day: shown.time });
        before = null;
      }
      if (!divided && message && shown.sender !== store.me && compareIds(message.id, this.#divider) > 0) {
        items.push({ key: "new", sign: "new", fresh: true });
        divided = true;
        before = null;
      }
      const first = !before || before.sender !== shown.sender || Date.parse(shown.time) - Date.parse(before.time) > GROUP_MS;
      const own = shown.sender === store.me;
      const readers = message ? seen.get(message.id) ?? [] : [];
      const quote = shown.reply_to ? this.#quote(channel, shown.reply_to) : null;
      const state = item ? item.state : message.live ? "pending" : "durable";
      const key = own ? `own ${shown.client_id}` : `msg ${message.id}`;
      const sign = [message?.id, message?.rev, first, state, item?.error, readers.join(), quote && quote.sign, this.#people.name(shown.sender)].join("|");
      const previous = items.at(-1);
      if (previous?.shown && !first) previous.sign += "|more"; // its corner is drawn for a group that goes on
      items.push({ key, sign, shown, message, item, own, first, state, readers, quote, direct: channel.kind === "direct" });
      before = shown;
    };
    for (const message of store.visible(channel)) {
      const shown = view(message);
      push(shown, message, shown.sender === store.me ? outbox.find(shown.client_id) : undefined);
    }
    if (!channel.ceil) {
      for (const item of outbox.sendsOf(channel.id)) {
        if (channel.messages.has(channel.keys.get(`${store.me}\n${item.fields.client_id}`))) continue; // its event came first
        const { body, client_id, reply_to } = item.fields;
        push({ sender: store.me, client_id, time: new Date(item.created).toISOString(), body, reply_to, reactions: new Map() }, null, item);
      }
    } else {
      items.push({ key: "newer", sign: "newer", newer: true });
    }
    return items;
  }

  // Read marks of the others, each under the newest message it covers.
  #seen(channel) {
    const { store } = this.#session;
    const under = new Map();
    const users = Object.entries(channel.reads);
    if (!users.length || channel.route === "channel") return under;
    const shown = store.visible(channel).filter((message) => !message.gone);
    for (const [user, id] of users) {
      const message = shown.findLast((one) => compareIds(one.id, id) <= 0);
      if (!message || message.base.sender === user) continue;
      under.set(message.id, [...(under.get(message.id) ?? []), user]);
    }
    return under;
  }

  // What a message answers: held, asked for once, or gone.
  #quote(channel, id) {
    const held = channel.messages.get(id);
    if (held?.known) {
      const { sender, body, deleted, gone } = view(held);
      const text = deleted || gone ? "Message deleted" : oneLine(body);
      return { id, sender, text, sign: `${sender} ${text}` };
    }
    if (!this.#quotes.has(id)) {
      this.#quotes.set(id, { id, sender: null, text: "…", sign: "…" });
      this.#session.message(channel.id, id).then(
        (wire) => {
          const text = !wire || wire.deleted ? "Message deleted" : oneLine(wire.body);
          this.#quotes.set(id, { id, sender: wire?.sender ?? null, text, sign: `${wire?.sender} ${text}` });
          this.draw();
        },
        () => this.#quotes.delete(id),
      );
    }
    return this.#quotes.get(id);
  }

  // -- elements -----------------------------------------------------------------------------------------------

  #make(item, old) {
    if (item.shown) return this.#message(item, old);
    if (item.day) return h("div", { class: "day" }, h("span", { text: dayName(item.day) }));
    if (item.fresh) return h("div", { class: "fresh", role: "separator", "aria-label": "New messages" }, h("span", { text: "New" }));
    if (item.start) return h("p", { class: "start" }, `This is the beginning of ${item.direct ? "your conversation with " : ""}`, h("bdi", { text: item.start }), ".");
    if (item.newer) return h("p", { class: "older", text: "Loading newer messages…" });
    return h("p", { class: "older", text: this.#session.client.ready ? "Loading messages…" : "Older messages load when the connection is back." });
  }

  #message(item, old) {
    const { shown, message, own, first, state, direct } = item;
    const name = this.#people.name(shown.sender);
    const classes = ["msg", own && "own", first && "first", state, shown.gone && "withdrawn", shown.deleted && "deleted", item.sign.endsWith("|more") && "more"];
    const element = h(
      "article",
      { class: classes.filter(Boolean).join(" "), tabindex: "-1", "aria-label": `${own ? "You" : name}, ${clockTime(shown.time)}`, "data-id": message?.id, "data-client-id": shown.client_id },
      !own && !direct && (first ? avatar(shown.sender, name, { small: true }) : h("span", { class: "gap" })),
      h(
        "div",
        { class: "stack" },
        first && !own && !direct && h("div", { class: "who", dir: "auto", text: name }),
        this.#bubble(item),
        this.#chips(shown),
        state === "failed" && this.#failure(item),
        this.#readers(item),
      ),
    );
    element.item = item;
    this.#tools.move(old, element);
    if (old === document.activeElement) queueMicrotask(() => element.focus({ preventScroll: true }));
    return element;
  }

  #bubble({ shown, quote, own, state, item }) {
    const body = h("div", { class: `body${!shown.deleted && onlyEmoji(shown.body) ? " large" : ""}`, dir: "auto" });
    if (shown.gone) body.textContent = "Withdrawn: this message was shown early and never became permanent.";
    else if (shown.deleted) body.textContent = "This message was deleted.";
    else body.append(...bodyNodes(shown.body));
    const said = own ? OWN_STATES[state] : state === "pending" && !shown.gone ? ["pending", "Just arrived, not yet confirmed"] : null;
    return h(
      "div",
      { class: "bubble" },
      quote &&
        h(
          "button",
          { class: "quote", type: "button", "aria-label": `Go to the message this answers: ${quote.text}`, on: { click: () => this.#go(quote.id) } },
          quote.sender && h("bdi", { class: "quote-who", text: this.#people.name(quote.sender) }),
          h("span", { class: "quote-text", dir: "auto", text: quote.text }),
        ),
      body,
      h(
        "span",
        { class: "meta" },
        shown.edited && h("span", { text: "edited" }),
        h("time", { datetime: shown.time, title: fullTime(shown.time), text: clockTime(shown.time) }),
        said && !shown.gone && h("span", { class: `sign ${said[0]}`, title: state === "retrying" && item?.error ? `${said[1]} (${item.error})` : said[1] }, said[0] === "pending" ? h("span", { class: "ring", role: "img", "aria-label": said[1] }) : icon(said[2], said[1])),
      ),
    );
  }

  #chips(shown) {
    if (!shown.reactions.size) return null;
    const { me } = this.#session;
    return h(
      "div",
      { class: "chips" },
      ...[...shown.reactions].map(([emoji, users]) =>
        h(
          "button",
          { class: "chip", type: "button", "aria-pressed": String(users.includes(me)), "aria-label": `${emoji}, ${names(users.map((user) => (user === me ? "you" : this.#people.name(user))), 6)}`, title: names(users.map((user) => (user === me ? "You" : this.#people.name(user))), 6), on: { click: () => this.#actions.react(shown, emoji) } },
          h("span", { text: emoji }),
          h("span", { class: "chip-count", text: count(users.length) }),
        ),
      ),
    );
  }

  #failure({ item, shown }) {
    return h(
      "div",
      { class: "failure" },
      h("span", { text: `Not sent. ${item.error}` }),
      h("button", { type: "button", text: "Try again", on: { click: () => this.#actions.retry(shown.client_id) } }),
      h("button", { type: "button", text: "Discard", on: { click: () => this.#actions.discard(shown.client_id) } }),
    );
  }

  #readers({ readers, direct }) {
    if (!readers.length) return null;
    const text = direct ? "Seen" : `Seen by ${names(readers.map((user) => this.#people.first(user)))}`;
    return h("div", { class: "seen", title: `Seen by ${names(readers.map((user) => this.#people.name(user)), 12)}`, text });
  }

  async #go(id) {
    await this.#session.reveal(this.#channel, id).catch(() => {});
    this.#stuck = false;
    this.draw();
    const target = this.#root.querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (!target) return;
    target.scrollIntoView({ block: "center" });
    target.focus({ preventScroll: true });
    target.classList.add("flash");
    setTimeout(() => target.classList.remove("flash"), 1600);
  }

  // -- scrolling ------------------------------------------------------------------------------------------------

  #bottom() {
    this.#root.scrollTop = this.#root.scrollHeight;
  }

  #anchor() {
    const top = this.#root.scrollTop;
    for (const element of this.#root.children) {
      if (element.classList.contains("msg") && element.offsetTop + element.offsetHeight > top) return { element, top: element.offsetTop };
    }
    return null;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#root;
    const channel = this.#session.store.channel(this.#channel);
    this.#stuck = scrollHeight - scrollTop - clientHeight < NEAR_PX && !channel.ceil;
    if (this.#stuck) this.#missed = 0;
    this.#after(channel);
  }

  #after(channel) {
    const { scrollTop, scrollHeight, clientHeight } = this.#root;
    const { client } = this.#session;
    if (client.ready && channel.floor != null) {
      if (scrollTop < AHEAD_PX && channel.floor !== "0" && !this.#session.loading(channel.id, "older")) this.#page(this.#session.older(channel.id));
      if (channel.ceil && scrollHeight - scrollTop - clientHeight < AHEAD_PX && !this.#session.loading(channel.id, "newer")) this.#page(this.#session.newer(channel.id));
    }
    this.#jump.hidden = this.#stuck;
    this.#jump.lastChild.textContent = this.#missed ? `${this.#missed} new` : "Newest";
    this.look();
  }

  // Old messages are put in silently: the log is live only for what is new.
  #page(flight) {
    this.#root.setAttribute("aria-live", "off");
    flight.finally(() => setTimeout(() => this.#root.setAttribute("aria-live", "polite"), 100));
  }

  #keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest(".tools")) return;
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const all = [...this.#root.querySelectorAll(".msg")];
    if (step && all.length) {
      const at = all.indexOf(document.activeElement.closest(".msg"));
      const next = at < 0 ? all.length - 1 : at + step;
      if (all[next]) all[next].focus();
      event.preventDefault();
    } else if (event.key === "End") {
      this.toEnd();
      all.at(-1)?.focus();
    }
  }
}

// class, words, icon
const OWN_STATES = {
  queued: ["sending", "Waiting to be sent", "clock"],
  sending: ["sending", "Sending", "clock"],
  retrying: ["retrying", "Not confirmed yet, trying again", "clock"],
  failed: ["failed", "Not sent", "alert"],
  pending: ["pending", "Just arrived, not yet confirmed"],
  durable: ["sent", "Sent and stored", "check"],
};
