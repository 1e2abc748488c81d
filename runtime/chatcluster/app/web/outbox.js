// What this device wants done and has no answer for yet: sends, edits, deletes, reactions.
// Rule 3: retry with the same client_id, a new rid and retry:true, for at most 24 hours.

import { Refusal, backoff } from "./client.js";
import { newKey } from "./ids.js";

const HORIZON_MS = 24 * 3600 * 1000;
const MAX_ITEMS = 200; // the newcomer is refused

/**
 * An item is {type, fields (with channel and client_id), created, tried, tries, due, state, error}.
 * States: queued, sending, retrying (no answer yet, or a retryable refusal), failed.
 */
export class Outbox {
  #request;
  #storage;
  #key;
  #hooks;
  #now;
  #random;
  #timer = null;

  /** request(type, fields) -> Promise; hooks: ready(), after(channel, client_id), onSettled(item, ack), onChange(channel). */
  constructor({ request, storage, key, hooks, now = Date.now, random = Math.random }) {
    this.#request = request;
    this.#storage = storage;
    this.#key = key;
    this.#hooks = hooks;
    this.#now = now;
    this.#random = random;
    this.items = this.#load();
  }

  /** Queue an operation; returns its item, or null when too much is waiting already. */
  add(type, fields) {
    if (this.items.length >= MAX_ITEMS) return null;
    const item = { type, fields: { client_id: newKey("w"), ...fields }, created: this.#now(), tried: false, tries: 0, due: 0, state: "queued" };
    this.items.push(item);
    this.#changed(item);
    this.kick();
    return item;
  }

  /** Send whatever is due. Call it when the connection becomes ready. */
  kick() {
    clearTimeout(this.#timer);
    if (!this.#hooks.ready()) return;
    const lanes = new Set();
    let next = Infinity;
    for (const item of [...this.items]) {
      if (item.state === "failed") continue;
      // One in flight per lane: a refused send is never overtaken by the one typed after it.
      const lane = item.type === "send" ? item.fields.channel : `${item.fields.channel}/${item.fields.id}`;
      if (lanes.has(lane)) continue;
      lanes.add(lane);
      if (item.state === "sending") continue;
      if (this.#now() - item.created > HORIZON_MS) this.#fail(item, "It could not be sent for 24 hours.");
      else if (item.due <= this.#now()) this.#transmit(item);
      else next = Math.min(next, item.due);
    }
    if (next < Infinity) this.#timer = setTimeout(() => this.kick(), next - this.#now());
  }

  /** The connection became ready: what waited for it is due now. */
  resume() {
    for (const item of this.items) if (item.state === "retrying") item.due = 0;
    this.kick();
  }

  /** Try a failed item again, with the same client_id while that still counts as the same. */
  retry(clientId) {
    const item = this.find(clientId);
    if (!item || item.state !== "failed") return;
    if (this.#now() - item.created > HORIZON_MS) {
      item.fields = { ...item.fields, client_id: newKey("w") };
      Object.assign(item, { created: this.#now(), tried: false });
    }
    Object.assign(item, { state: "queued", tries: 0, due: 0, error: undefined });
    this.#changed(item);
    this.kick();
  }

  /** Give an item up; returns it. Only what has failed may go: the rest may have happened already. */
  discard(clientId) {
    const item = this.find(clientId);
    if (!item || item.state !== "failed") return null;
    this.#remove(item);
    return item;
  }

  find(clientId) {
    return this.items.find((item) => item.fields.client_id === clientId);
  }

  sendsOf(channel) {
    return this.items.filter((item) => item.type === "send" && item.fields.channel === channel);
  }

  async #transmit(item) {
    const fields = { ...item.fields };
    if (item.type === "send") {
      const after = this.#hooks.after(fields.channel, fields.client_id);
      if (after) fields.after = after;
    }
    if (item.tried) fields.retry = true;
    item.state = "sending";
    item.tried = true; // saved before the frame leaves: after a reload it may have happened already
    this.#changed(item);
    try {
      const ack = await this.#request(item.type, fields);
      this.#remove(item, ack);
    } catch (error) {
      if (error instanceof Refusal && !error.retryable) {
        this.#fail(item, error.message, error.code);
      } else {
        item.state = "retrying";
        item.error = error.message;
        item.due = this.#now() + Math.max(error.retryAfter ?? 0, 100 + backoff(item.tries++, this.#random));
        this.#changed(item);
      }
    }
    this.kick();
  }

  #fail(item, message, code) {
    Object.assign(item, { state: "failed", error: message, code });
    this.#changed(item);
  }

  #remove(item, ack) {
    this.items = this.items.filter((other) => other !== item);
    if (ack) this.#hooks.onSettled(item, ack);
    this.#changed(item);
  }

  #changed(item) {
    try {
      this.#storage.setItem(this.#key, JSON.stringify(this.items));
    } catch {
      // The storage is full: the item lives as long as the page.
    }
    this.#hooks.onChange(item.fields.channel);
  }

  #load() {
    try {
      const items = JSON.parse(this.#storage.getItem(this.#key) ?? "[]");
      for (const item of items) if (item.state === "sending") item.state = "retrying";
      return items;
    } catch {
      return [];
    }
  }
}
