// One user on one device: the connection, the outbox and the store, brought together by the protocol's rules.
// Knows no page; the page asks the store and calls the verbs below.

import { Client, NoAnswer, Refusal, backoff, deviceOf } from "./client.js";
import { compareIds, newKey, nextId } from "./ids.js";
import { Outbox } from "./outbox.js";
import { KEEP_CLOSED, KEEP_OPEN, Store } from "./store.js";

const PAGE = 50;
const WARM = 12; // conversations whose newest messages are read ahead
const SAVE_MS = 2_000;
const TYPING_MS = 3_000;
const MAX_TRIES = 8;

export class Session {
  #storage;
  #saved;
  #onChange;
  #timers = new Map();
  #loading = new Map();
  #rosters = new Map();
  #typed = new Map();
  #watched = "";
  #visits = [];

  /** token(fresh) -> Promise<string|null>; onChange(channel|null); onState(state). */
  constructor({ me, url, token, storage, onChange, onState, WebSocket }) {
    this.me = me;
    this.#storage = storage;
    this.#saved = `chatcluster:${me}:state`;
    this.#onChange = onChange;
    this.open = null;
    this.status = "online";
    this.listed = false; // the conversation list has been read once
    this.store = new Store({ me, changed: onChange });
    try {
      this.store.load(storage.getItem(this.#saved));
    } catch {
      storage.removeItem(this.#saved); // of an older page: start as a new device
    }
    this.client = new Client({
      url,
      device: deviceOf(storage),
      WebSocket,
      hooks: {
        token,
        resume: () => this.store.resume(),
        forget: () => this.#forget(),
        onState: (state) => onState(state),
        onWelcome: (frame) => this.#welcome(frame),
        onFrame: (frame) => this.#frame(frame),
      },
    });
    this.outbox = new Outbox({
      request: (type, fields) => this.client.request(type, fields),
      storage,
      key: `chatcluster:${me}:outbox`,
      hooks: {
        ready: () => this.client.ready,
        after: (channel, clientId) => this.store.last(this.store.channel(channel), clientId)?.id,
        onSettled: (item, ack) => item.type === "send" && this.store.acked(item.fields, ack),
        onChange: (channel) => onChange(channel),
      },
    });
  }

  start() {
    this.client.start();
  }

  /** Save and leave. */
  stop() {
    this.save();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.client.stop("left");
  }

  /** State and cursors as one text. Where it does not fit, nothing is kept: a reload then starts as a new device. */
  save() {
    try {
      this.#storage.setItem(this.#saved, this.store.dump());
    } catch {
      this.#storage.removeItem(this.#saved);
    }
  }

  // -- what the server says ------------------------------------------------------------------------------

  #welcome(frame) {
    const { cursors } = this.store;
    if (!frame.resumed) {
      if (cursors.inbox) this.store.stale();
      this.store.cursors = { inbox: frame.inbox, channels: { ...frame.follow } };
    } else {
      cursors.channels = Object.fromEntries(Object.entries(frame.follow).map(([id, cursor]) => [id, cursors.channels[id] ?? cursor]));
    }
    this.#watched = "";
    this.#loading.clear();
    if (this.status !== "online") this.client.tell("presence", { status: this.status });
    this.outbox.resume();
    this.#later("list", 0, () => this.#list());
    if (this.open) this.visit(this.open);
  }

  #forget() {
    this.store.stale();
    this.store.cursors = { inbox: null, channels: {} };
  }

  #frame(frame) {
    switch (frame.type) {
      case "event":
        return this.#act(this.store.event(frame), frame);
      case "mark":
        this.store.mark(frame);
        if (!this.#timers.has("save")) this.#later("save", SAVE_MS, () => this.save());
        return undefined;
      case "presence":
        return this.store.setPresence(frame.changes);
      case "typing":
        this.store.setTyping(frame.channel, frame.user);
        return this.#later(`typing ${frame.channel}`, 6_100, () => this.#onChange(frame.channel));
      case "resync":
        return this.#resync(frame.timeline);
      default:
        return undefined; // types of a later protocol
    }
  }

  #act(act, frame) {
    const channel = this.store.channel(frame.channel);
    if (frame.kind === "message") this.store.trim(channel, frame.channel === this.open ? KEEP_OPEN : KEEP_CLOSED);
    switch (act) {
      case "unknown":
      case "described":
      case "recount":
        return this.#later("list", 250, () => this.#list());
      case "joined":
        // History denied while not a member is asked again after the next own add.
        channel.floor = null;
        this.#rosters.delete(frame.channel);
        if (frame.route === "channel") this.#follow(frame.channel, frame.cursor);
        if (this.open === frame.channel) this.load(frame.channel);
        return this.#later("list", 250, () => this.#list());
      case "left":
        delete this.store.cursors.channels[frame.channel];
        return undefined;
      case "members":
        // Thousands may come at once: the roster and the true number are read when a while has passed.
        if (this.#timers.has("members")) return undefined;
        return this.#later("members", 1500, () => {
          this.#rosters.clear();
          this.#list();
        });
      case "route":
        return frame.to === "channel" ? this.#follow(frame.channel, frame.cursor) : this.#toInbox(frame);
      default:
        return undefined;
    }
  }

  // delivery.md 4, Route: read the channel's own timeline from here (or `since`) to its end, then stop following.
  async #toInbox(frame) {
    const id = frame.channel;
    let cursor = this.store.cursors.channels[id];
    if (!cursor) return this.#anew(id); // not followed: nothing of it is held
    delete this.store.cursors.channels[id];
    try {
      for (let more = true; more; ) {
        const reply = await this.client.request("sync", { channels: { [id]: cursor } });
        for (const event of reply.events) this.store.event(event);
        ({ more } = reply);
        cursor = reply.cursors.channels?.[id] ?? cursor;
      }
      await this.client.request("unfollow", { channel: id });
    } catch (error) {
      if (!(error instanceof NoAnswer)) return this.#anew(id);
      this.store.cursors.channels[id] ??= cursor; // the connection ended: resume repeats it
    }
    return undefined;
  }

  #anew(id) {
    this.store.stale(id);
    if (this.open === id) this.load(id);
  }

  #resync(timeline) {
    const id = timeline.startsWith("channel:") ? timeline.slice(8) : null;
    this.store.stale(id);
    if (this.open) this.load(this.open);
    if (!id) this.#later("list", 0, () => this.#list());
  }

  async #list() {
    const before = new Set(this.store.list().map(({ id }) => id));
    try {
      let page;
      do {
        const reply = await this.client.request("channels", page ? { page } : {});
        ({ page } = reply);
        this.store.summaries(reply.channels, page ? null : before);
        if (page) for (const { id } of reply.channels) before.delete(id);
      } while (page);
      this.listed = true;
      this.#onChange(null);
      if (this.open) this.visit(this.open);
      this.#watch();
      await this.#warm();
    } catch (error) {
      if (error instanceof Refusal && error.retryable) this.#later("list", 1000 + error.retryAfter, () => this.#list());
    }
  }

  /** Newest messages of the first conversations: previews, and they open at once. */
  async #warm() {
    for (const channel of this.store.list().slice(0, WARM)) {
      if (channel.head && channel.floor == null && this.#flows(channel)) await this.load(channel.id, KEEP_CLOSED / 2);
    }
  }

  // Only where events keep coming does a window without holes stay one.
  #flows(channel) {
    return channel.route === "inbox" || channel.id in this.store.cursors.channels;
  }

  // -- what the page asks -----------------------------------------------------------------------------------

  /** Open a conversation: follow it if it is large, read its newest page if that is not held. */
  async visit(id) {
    const before = this.open;
    this.open = id;
    if (before && before !== id) {
      const left = this.store.channel(before);
      if (left.ceil) this.store.stale(before);
      this.store.trim(left, KEEP_CLOSED);
    }
    this.#visits = [id, ...this.#visits.filter((other) => other !== id)];
    const channel = this.store.channel(id);
    if (!this.client.ready || !channel.listed) return;
    if (!this.#flows(channel)) await this.#follow(id);
    if (channel.floor == null) await this.load(id);
    await this.roster(id);
  }

  /** Stop showing any conversation. */
  leave() {
    if (this.open) this.store.trim(this.store.channel(this.open), KEEP_CLOSED);
    this.open = null;
  }

  async #follow(id, cursor) {
    const { channels } = this.store.cursors;
    const many = Object.keys(channels).filter((other) => other !== id);
    if (many.length >= this.client.limits.follow) {
      // Bounded: the one that was looked at longest ago is followed no more, and read anew when it is opened.
      const rank = (other) => (this.#visits.indexOf(other) + 1 || Infinity);
      const [oldest] = many.sort((a, b) => rank(b) - rank(a));
      delete channels[oldest];
      this.store.stale(oldest);
      this.client.request("unfollow", { channel: oldest }).catch(() => {});
    }
    try {
      const reply = await this.client.request("follow", cursor ? { channel: id, cursor } : { channel: id });
      this.store.channel(id).route = reply.route;
      if (reply.route === "channel") this.store.cursors.channels[id] = reply.cursor;
    } catch {
      this.store.stale(id); // read anew when it is opened next
    }
  }

  /** The newest page. One flight per conversation. */
  load(id, limit = PAGE) {
    return this.#page(id, "newest", { limit }, {});
  }

  /** A page of older messages; resolves when it is in the store. */
  older(id) {
    const { floor } = this.store.channel(id);
    if (floor == null || floor === "0") return Promise.resolve();
    return this.#page(id, "older", { before: floor, limit: PAGE }, { before: floor });
  }

  /** A page of newer messages, where the window ends before the present. */
  newer(id) {
    const { ceil } = this.store.channel(id);
    if (!ceil) return Promise.resolve();
    return this.#page(id, "newer", { after: ceil, limit: PAGE }, { after: ceil });
  }

  /** Back to the present from far up. */
  async latest(id) {
    if (this.store.channel(id).ceil) {
      this.store.stale(id);
      await this.load(id);
    }
  }

  /** Make an old message visible, wherever it is. */
  async reveal(id, message) {
    const channel = this.store.channel(id);
    if (channel.floor != null && compareIds(message, channel.floor) >= 0) return;
    const reply = await this.client.request("history", { channel: id, before: nextId(message), limit: PAGE });
    this.store.stale(id);
    this.store.around(id, reply, message);
    await this.newer(id);
  }

  /** One message by id (for quotes), or null. */
  async message(id, message) {
    const reply = await this.client.request("history", { channel: id, before: nextId(message), limit: 1 });
    return reply.messages.find((one) => one.id === message) ?? null;
  }

  loading(id, which) {
    return this.#loading.has(`${id} ${which}`);
  }

  #page(id, which, fields, bounds) {
    const key = `${id} ${which}`;
    const running = this.#loading.get(key);
    if (running) return running;
    const flight = this.#fetch(id, which, fields, bounds).finally(() => {
      if (this.#loading.get(key) === flight) this.#loading.delete(key);
      this.#onChange(id);
    });
    this.#loading.set(key, flight);
    return flight;
  }

  async #fetch(id, which, fields, bounds) {
    for (let attempt = 0; attempt < MAX_TRIES; attempt++) {
      try {
        const reply = await this.client.request("history", { channel: id, ...fields });
        this.store.history(id, reply, bounds);
        const channel = this.store.channel(id);
        if (this.open === id) this.store.trim(channel, KEEP_OPEN, which !== "older");
        return;
      } catch (error) {
        if (!(error instanceof Refusal && error.retryable)) return; // asked again after the next welcome, or own add
        await new Promise((resolve) => setTimeout(resolve, error.retryAfter + backoff(attempt)));
      }
    }
  }

  /** Members of a small channel: [{user, role}], or null while unknown or too many. */
  async roster(id) {
    const channel = this.store.channel(id);
    if (this.#rosters.has(id) || channel.members > 200 || channel.route === "channel") return this.#watch();
    try {
      const { members } = await this.client.request("channel.members", { channel: id });
      this.#rosters.set(id, members);
      if (this.#rosters.size > 50) this.#rosters.delete(this.#rosters.keys().next().value);
      this.#onChange(id);
    } catch {
      // The page shows the number alone.
    }
    return this.#watch();
  }

  members(id) {
    return this.#rosters.get(id) ?? null;
  }

  // The visible set: the people of direct conversations and of the open one.
  #watch() {
    const users = new Set((this.members(this.open) ?? []).map(({ user }) => user));
    for (const { peer } of this.store.list()) if (peer) users.add(peer);
    users.delete(this.me);
    const visible = [...users].slice(0, this.client.limits.watch_users).sort();
    const text = visible.join("\n");
    if (text === this.#watched || !this.client.ready) return;
    this.#watched = text;
    this.client.request("watch", { users: visible }).then(
      ({ presence }) => this.store.setPresence(presence),
      () => (this.#watched = ""),
    );
  }

  send(channel, body, replyTo) {
    return this.outbox.add("send", { channel, body, ...(replyTo ? { reply_to: replyTo } : {}) });
  }

  edit(channel, id, body) {
    return this.outbox.add("edit", { channel, id, body });
  }

  remove(channel, id) {
    return this.outbox.add("delete", { channel, id });
  }

  react(channel, id, emoji, remove) {
    return this.outbox.add("react", { channel, id, emoji, ...(remove ? { remove } : {}) });
  }

  /** Everything up to this message was looked at here. */
  read(id, message, attempt = 0) {
    const channel = this.store.channel(id);
    if (!attempt) {
      if (channel.read && compareIds(message, channel.read) <= 0) return;
      channel.read = message;
      this.#onChange(id);
    }
    this.#later(`read ${id}`, attempt ? 700 : 120, async () => {
      try {
        await this.client.request("read", { channel: id, id: channel.read });
      } catch (error) {
        // A message told live may not be the head yet: ask again until it is proven.
        const ahead = error instanceof Refusal && (error.code === "cursor_ahead" || error.retryable);
        if ((ahead || error instanceof NoAnswer) && attempt < MAX_TRIES) this.read(id, message, attempt + 1);
      }
    });
  }

  typing(id) {
    const now = Date.now();
    if (now - (this.#typed.get(id) ?? 0) < TYPING_MS) return;
    this.#typed = new Map([[id, now]]);
    this.client.tell("typing", { channel: id });
  }

  setStatus(status) {
    if (status === this.status) return;
    this.status = status;
    this.client.tell("presence", { status });
  }

  /** Make a direct conversation or a group; resolves with its id. */
  async create(kind, members, name) {
    const fields = { client_id: newKey("c"), kind, members, ...(name ? { name } : {}) };
    const { channel: id } = await this.client.request("channel.create", fields);
    const channel = this.store.channel(id);
    if (!channel.listed) {
      Object.assign(channel, { kind, name: name ?? null, listed: true, fresh: true, members: new Set([this.me, ...members]).size });
      if (kind === "direct") channel.peer = members[0];
      else channel.role = "owner";
    }
    this.#later("list", 500, () => this.#list());
    return id;
  }

  /** channel.update, channel.add, channel.remove, channel.leave. */
  async administer(type, channel, fields = {}) {
    await this.client.request(type, { channel, ...fields });
    if (type === "channel.leave") this.store.channel(channel).left = true;
    this.#rosters.delete(channel);
    this.#onChange(channel);
  }

  #later(name, delay, run) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(
      name,
      setTimeout(() => {
        this.#timers.delete(name);
        run();
      }, delay),
    );
  }
}
