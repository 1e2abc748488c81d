// What this device knows: channels, messages, read marks, presence. Fed by frames, asked by the page; no I/O.
// Rule 1 and delivery.md section 7: upserts by id, highest version wins, retracted only for what is pending.

import { compareIds, laterId, place } from "./ids.js";
import { proveIn, putDelete, putEdit, putHistory, putMessage, putReaction, stub, view, withdrawIn } from "./message.js";

// Bounds of memory (law 7): messages kept per channel, and how many channels keep theirs.
export const KEEP_OPEN = 1200;
export const KEEP_CLOSED = 60;
const KEEP_PRESENCE = 2000;
const SAVE_MESSAGES = 30;
const SAVE_CHANNELS = 30;
const MAX_PENDING = 1000; // what `resume.pending` may carry
const TYPING_MS = 6_000;

/** floor: everything from this id on is held (null: nothing was read yet). ceil: held only up to here (null: to the end). */
const empty = (id) => ({
  id,
  kind: "group",
  name: null,
  peer: null,
  members: 0,
  role: "member",
  route: "inbox",
  listed: false,
  fresh: false, // made here, maybe not yet in the server's list
  left: false,
  head: null,
  born: null,
  read: null,
  counted: { unread: 0, head: null },
  versions: {},
  floor: null,
  ceil: null,
  ids: [],
  messages: new Map(),
  keys: new Map(),
  reads: {},
  typing: new Map(),
  preview: null,
});

export class Store {
  #changed;
  #now;

  /** changed(channel or null): something of this channel, or of the whole (presence, list), looks different. */
  constructor({ me, changed = () => {}, now = Date.now }) {
    this.me = me;
    this.#changed = changed;
    this.#now = now;
    this.channels = new Map();
    this.pending = new Map(); // live event id -> [channel, message id]
    this.presence = new Map();
    this.cursors = { inbox: null, channels: {} };
  }

  channel(id) {
    let channel = this.channels.get(id);
    if (!channel) this.channels.set(id, (channel = empty(id)));
    return channel;
  }

  // -- events -------------------------------------------------------------------------------------

  /** An `event` frame. Returns what its receiver must act on: unknown | joined | left | route | null. */
  event(frame) {
    // A server that knows only the id we resumed with names no channel in its retraction.
    const id = frame.channel || this.pending.get(frame.message_id)?.[0];
    if (!id) return null;
    const known = this.channels.has(id);
    const channel = this.channel(id);
    const act = this.#apply(channel, frame);
    this.#changed(id);
    return act ?? (known && channel.listed ? null : "unknown");
  }

  #apply(channel, frame) {
    const { id, live } = frame;
    switch (frame.kind) {
      case "message":
        return this.#message(channel, frame.message, live);
      case "edited": {
        const message = this.#ensure(channel, frame.message.id);
        return this.#pend(channel, message, id, putEdit(message, frame.message, frame.version ?? id, live));
      }
      case "deleted": {
        const message = this.#ensure(channel, frame.message_id);
        return this.#pend(channel, message, id, putDelete(message, frame.version ?? id, live));
      }
      case "reaction": {
        const message = this.#ensure(channel, frame.message_id);
        return this.#pend(channel, message, id, putReaction(message, frame, frame.version ?? id, live));
      }
      case "retracted":
        return this.#retract(channel, frame);
      case "read":
        return this.#read(channel, frame.user, frame.message_id);
      case "member":
        return this.#member(channel, frame);
      case "channel":
        return this.#described(channel, frame);
      case "route":
        if (!this.#newer(channel, "route", frame.version)) return null;
        channel.route = frame.to;
        return "route";
      default:
        return null; // kinds of a later protocol
    }
  }

  #message(channel, wire, live) {
    const message = this.#ensure(channel, wire.id);
    this.#pend(channel, message, wire.id, putMessage(message, wire, live));
    this.#only(channel, message);
    if (!message.gone) {
      channel.head = laterId(channel.head, wire.id);
      channel.typing.delete(wire.sender);
    }
    return null;
  }

  // A second message with the same (sender, client_id) is hidden: the durable one stays, else the smaller id.
  #only(channel, message) {
    if (!message.known || !message.base.client_id) return;
    const key = `${message.base.sender}\n${message.base.client_id}`;
    const other = channel.messages.get(channel.keys.get(key));
    if (!other || other === message || other.gone) return void channel.keys.set(key, message.id);
    const wins = message.live === other.live ? compareIds(message.id, other.id) < 0 : other.live;
    message.hidden = !wins;
    other.hidden = wins;
    other.rev++;
    if (wins) channel.keys.set(key, message.id);
  }

  #pend(channel, message, id, pending) {
    if (pending) this.pending.set(id, [channel.id, message.id]);
    else this.pending.delete(id);
    return null;
  }

  #retract(channel, frame) {
    const id = frame.message_id;
    if (frame.of) {
      const message = this.#ensure(channel, id);
      Object.assign(message, { gone: "alias", live: false });
      message.rev++;
      const key = message.base && `${message.base.sender}\n${message.base.client_id}`;
      if (key && channel.keys.get(key) === id) channel.keys.set(key, frame.of);
      const first = channel.messages.get(frame.of);
      if (first) Object.assign(first, { hidden: false, rev: first.rev + 1 });
    } else if (this.pending.has(id)) {
      const message = channel.messages.get(this.pending.get(id)[1]);
      if (message) withdrawIn(message, id);
    }
    this.pending.delete(id);
    if (channel.head === id) channel.head = this.#newest(channel);
    return null;
  }

  #newest(channel) {
    for (let at = channel.ids.length - 1; at >= 0; at--) {
      const message = channel.messages.get(channel.ids[at]);
      if (message.known && !message.gone) return message.id;
    }
    return null;
  }

  #read(channel, user, id) {
    if (user === this.me) {
      channel.read = laterId(channel.read, id);
      // Whether zero is left is known; how many, only where the messages are held.
      return channel.head && compareIds(id, channel.head) < 0 && !this.#holds(channel, id) ? "recount" : null;
    }
    channel.reads[user] = laterId(channel.reads[user], id);
    return null;
  }

  #member(channel, frame) {
    // One version for all the others: a channel may have 200,000 of them, and only their number is kept.
    if (!this.#newer(channel, frame.user === this.me ? "me" : "others", frame.version)) return null;
    if (frame.change === "add") channel.members++;
    if (frame.change === "remove") channel.members = Math.max(0, channel.members - 1);
    if (frame.user !== this.me) return "members";
    if (frame.change === "remove") {
      channel.left = true;
      return "left";
    }
    if (frame.role) channel.role = frame.role;
    if (frame.change !== "add") return "members";
    channel.left = false;
    channel.born = laterId(channel.born, frame.id);
    if (frame.route) channel.route = frame.route;
    return "joined";
  }

  #described(channel, frame) {
    if (!this.#newer(channel, "name", frame.version)) return null;
    if (frame.channel_kind) channel.kind = frame.channel_kind;
    channel.name = frame.name ?? null;
    if (frame.change === "created") {
      channel.born = laterId(channel.born, frame.id);
      channel.floor ??= channel.route === "inbox" ? "0" : null; // born before our eyes: nothing is older
      if (frame.members) {
        channel.members = frame.members.length;
        channel.role = frame.members.find(({ user }) => user === this.me)?.role ?? channel.role;
        if (channel.kind === "direct") channel.peer = frame.members.find(({ user }) => user !== this.me)?.user ?? this.me;
      }
    }
    return "described";
  }

  #newer(channel, what, version) {
    const before = channel.versions[what];
    if (version == null) return true;
    if (before != null && compareIds(version, before) <= 0) return false;
    channel.versions[what] = version;
    return true;
  }

  #ensure(channel, id) {
    let message = channel.messages.get(id);
    if (!message) {
      message = stub(id);
      channel.messages.set(id, message);
      channel.ids.splice(place(channel.ids, id).at, 0, id);
    }
    return message;
  }

  // -- marks and resume -------------------------------------------------------------------------------

  /** A `mark`: its cursors are proven; live events not in its `pending` are durable. */
  mark(frame) {
    if (frame.inbox) this.cursors.inbox = frame.inbox;
    for (const [channel, cursor] of Object.entries(frame.channels ?? {})) {
      if (channel in this.cursors.channels) this.cursors.channels[channel] = cursor; // unfollowed since: no longer
    }
    const still = new Set(frame.pending);
    const touched = new Set();
    for (const [id, [channelId, messageId]] of this.pending) {
      if (still.has(id)) continue;
      this.pending.delete(id);
      const message = this.channels.get(channelId)?.messages.get(messageId);
      if (message) proveIn(message, id);
      touched.add(channelId);
    }
    for (const channel of touched) this.#changed(channel);
  }

  /** What `hello` resumes with, or null on a new device. */
  resume() {
    if (!this.cursors.inbox) return null;
    return { inbox: this.cursors.inbox, channels: { ...this.cursors.channels }, pending: [...this.pending.keys()].slice(-MAX_PENDING) };
  }

  /** The server cannot continue: what is held may have holes, so histories are read anew. null: everything. */
  stale(channelId = null) {
    for (const channel of channelId ? [this.channel(channelId)] : this.channels.values()) {
      const last = this.last(channel);
      if (last) channel.preview = last.base;
      Object.assign(channel, { floor: null, ceil: null, ids: [], messages: new Map(), keys: new Map() });
    }
    for (const [id, [channel]] of this.pending) if (!channelId || channel === channelId) this.pending.delete(id);
    this.#changed(channelId);
  }

  /** An own send is durable as `ack.id`, whatever was shown before. */
  acked(fields, ack) {
    const channel = this.channel(fields.channel);
    const message = this.#ensure(channel, ack.id);
    const wire = { id: ack.id, channel: channel.id, sender: this.me, client_id: fields.client_id, time: ack.time, body: fields.body };
    if (fields.reply_to) wire.reply_to = fields.reply_to;
    putMessage(message, wire, false);
    this.pending.delete(ack.id);
    this.#only(channel, message);
    channel.head = laterId(channel.head, ack.id);
    this.#changed(channel.id);
  }

  // -- answers -----------------------------------------------------------------------------------------

  /** Summaries of the `channels` reply. `all`: ids that were listed before it was asked for, when it is complete. */
  summaries(list, all = null) {
    for (const one of list) {
      const channel = this.channel(one.id);
      const { kind, name, members, role, route } = one;
      Object.assign(channel, { kind, name, members, role, route, listed: true, left: false, fresh: false });
      channel.peer = one.peer ?? channel.peer;
      channel.head = laterId(channel.head, one.head);
      channel.read = laterId(channel.read, one.read);
      channel.counted = { unread: one.unread, head: one.head };
      all?.delete(one.id);
    }
    for (const id of all ?? []) if (!this.channel(id).fresh) this.channel(id).left = true;
    this.#changed(null);
  }

  /** A page of history, asked with `bounds` {before?, after?}. */
  history(channelId, { messages, more }, { before, after } = {}) {
    const channel = this.channel(channelId);
    const overlaps = channel.floor != null && !channel.ceil && messages.length && compareIds(messages[0].id, channel.head ?? "0") <= 0 &&
      channel.messages.get(messages[0].id)?.known;
    for (const wire of messages) {
      const message = this.#ensure(channel, wire.id);
      putHistory(message, wire);
      this.pending.delete(wire.id);
      this.#only(channel, message);
    }
    const first = messages[0]?.id ?? null;
    const last = messages.at(-1)?.id ?? null;
    if (after) {
      channel.ceil = more ? last ?? channel.ceil : null;
    } else if (before) {
      channel.floor = more && first ? first : "0";
    } else {
      channel.head = laterId(channel.head, last);
      channel.ceil = null;
      if (!overlaps) channel.floor = more && first ? first : "0";
    }
    this.#changed(channelId);
  }

  /** Show the neighbourhood of an old message: the window ends there until it is paged on. */
  around(channelId, reply, id) {
    const channel = this.channel(channelId);
    this.history(channelId, reply, { before: "around" });
    channel.ceil = id;
    this.#changed(channelId);
  }

  setPresence(changes) {
    for (const { user, status, since } of changes) {
      this.presence.delete(user); // the newest are last, the oldest are forgotten first
      this.presence.set(user, { status, since });
    }
    for (const user of this.presence.keys()) {
      if (this.presence.size <= KEEP_PRESENCE) break;
      this.presence.delete(user);
    }
    this.#changed(null);
  }

  setTyping(channelId, user) {
    if (user === this.me || !this.channels.has(channelId)) return;
    const { typing } = this.channel(channelId);
    if (typing.size < 50) typing.set(user, this.#now() + TYPING_MS);
    this.#changed(channelId);
  }

  // -- questions ---------------------------------------------------------------------------------------

  /** Who types there now. */
  typers(channel) {
    const now = this.#now();
    for (const [user, until] of channel.typing) if (until <= now) channel.typing.delete(user);
    return [...channel.typing.keys()];
  }

  /** The conversation list, newest activity first. */
  list() {
    const rank = (channel) => laterId(channel.head, channel.born) ?? "0";
    return [...this.channels.values()].filter(({ listed, left }) => listed && !left).sort((a, b) => compareIds(rank(b), rank(a)) || (a.id < b.id ? -1 : 1));
  }

  /** Messages to show, ascending: within the window, once each; withdrawn ones keep their place, said honestly. */
  visible(channel) {
    const shown = [];
    for (const id of channel.ids) {
      if (channel.floor == null || compareIds(id, channel.floor) < 0) continue;
      if (channel.ceil && compareIds(id, channel.ceil) > 0) break;
      const message = channel.messages.get(id);
      if (message.known && !message.hidden && message.gone !== "alias") shown.push(message);
    }
    return shown;
  }

  /** The newest message that may be shown, for previews and `after`. */
  last(channel, except) {
    for (let at = channel.ids.length - 1; at >= 0; at--) {
      const message = channel.messages.get(channel.ids[at]);
      if (message.known && !message.hidden && !message.gone && message.base.client_id !== except) return message;
    }
    return null;
  }

  unread(channel) {
    if (!channel.head || (channel.read && compareIds(channel.read, channel.head) >= 0)) return 0;
    // Where everything after the read mark is held it is counted here; else the server counted up to a head.
    const exact = this.#holds(channel, channel.read ?? "0");
    const from = exact ? channel.read ?? "0" : laterId(channel.counted.head, channel.read) ?? "0";
    let count = exact ? 0 : channel.counted.unread;
    for (let at = channel.ids.length - 1; at >= 0 && compareIds(channel.ids[at], from) > 0; at--) {
      const message = channel.messages.get(channel.ids[at]);
      if (message.known && !message.hidden && !message.gone && message.base.sender !== this.me) count++;
    }
    return count;
  }

  #holds(channel, id) {
    return channel.floor != null && !channel.ceil && compareIds(channel.floor, id) <= 0;
  }

  // -- bounds -----------------------------------------------------------------------------------------------

  /** Forget the oldest messages beyond `keep`; `fromTop` false forgets the newest instead (paging far up). */
  trim(channel, keep, fromTop = true) {
    const extra = channel.ids.length - keep;
    if (extra <= 0) return;
    const forget = (ids) => {
      for (const id of ids) {
        const message = channel.messages.get(id);
        if (message.base) channel.keys.delete(`${message.base.sender}\n${message.base.client_id}`);
        channel.messages.delete(id);
      }
    };
    if (fromTop) {
      forget(channel.ids.splice(0, extra));
      if (channel.floor != null) channel.floor = laterId(channel.floor, channel.ids[0]);
    } else {
      forget(channel.ids.splice(keep, extra));
      channel.ceil = channel.ids.at(-1);
    }
  }

  /** What survives a reload: one text, so a mark is never saved without what came before it (rule 2). */
  dump() {
    const channels = this.list().slice(0, SAVE_CHANNELS).map((channel) => {
      const kept = channel.ceil || channel.floor == null ? [] : channel.ids.slice(-SAVE_MESSAGES);
      const floor = kept.length ? (kept.length < channel.ids.length ? laterId(channel.floor, kept[0]) : channel.floor) : null;
      const { typing: _typing, keys: _keys, messages, ...rest } = channel;
      return { ...rest, ceil: null, floor, ids: kept, messages: kept.map((id) => messages.get(id)) };
    });
    const held = new Set(channels.flatMap(({ ids }) => ids));
    const pending = [...this.pending].filter(([, [, message]]) => held.has(message));
    return JSON.stringify({ me: this.me, cursors: this.cursors, channels, pending });
  }

  /** The state of an earlier page; false when it is none of this user's. */
  load(text) {
    const saved = JSON.parse(text ?? "null");
    if (saved?.me !== this.me) return false;
    this.cursors = saved.cursors;
    for (const { messages, ...rest } of saved.channels) {
      const channel = Object.assign(this.channel(rest.id), rest);
      for (const message of messages) {
        channel.messages.set(message.id, message);
        if (message.base && !message.gone && !message.hidden) channel.keys.set(`${message.base.sender}\n${message.base.client_id}`, message.id);
      }
    }
    this.pending = new Map(saved.pending);
    return true;
  }
}

export { view };
