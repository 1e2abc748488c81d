// The connection of one device: hello, resume, requests and answers, heartbeats, reconnects.
// Follows "The client's rules" of the protocol. Knows no page and keeps no messages: see store.js and outbox.js.

import { newKey } from "./ids.js";

export const SUBPROTOCOL = "chatcluster.v1.json";
export const VERSION = "1";

const BASE_MS = 500;
const CAP_MS = 60_000;
const WELCOME_MS = 15_000; // a handshake that takes longer is given up
const ANSWER_MS = 15_000; // a request that takes longer is given up; its late answer is ignored (rule 3)
const STEADY_MS = 5_000; // a connection that lived this long resets the backoff
const MAX_REQUESTS = 256; // in flight; the newcomer is refused

/** Full jitter (rule 4): anywhere between 0 and the exponential bound, in ms. `attempt` counts from 0. */
export const backoff = (attempt, random = Math.random) => random() * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempt, 20));

// What a close code asks for. `stop`: only a person can help. `least`: begin the backoff higher up.
const CLOSES = {
  1002: { least: 5 },
  1003: { least: 5 },
  1007: { least: 5 },
  1008: { least: 5 },
  1009: { least: 5 },
  1013: { least: 3 },
  4401: { stop: "unauthorized" },
  4403: { stop: "forbidden" },
  4409: { stop: "replaced" },
  4413: { refresh: true },
  4429: { least: 4 },
};

/** { stop?, refresh?, least } for a close code. Codes not named: reconnect and resume by backoff. */
export const afterClose = (code) => ({ least: 0, ...CLOSES[code] });

/** When a JWT ends, in ms since 1970, or null. The token stays opaque where it is not a JWT. */
export function expiryOf(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return Number.isFinite(claims.exp) ? claims.exp * 1000 : null;
  } catch {
    return null;
  }
}

/** An answered no. */
export class Refusal extends Error {
  constructor(frame) {
    super(frame.message);
    this.code = frame.code;
    this.retryable = frame.retryable;
    this.retryAfter = frame.retry_after_ms ?? 0;
  }
}

/** No answer: the connection ended or time ran out. Nothing is known about the effect. */
export class NoAnswer extends Error {}

/**
 * hooks: token(fresh) -> Promise<string>; resume() -> {inbox, channels, pending} or null;
 * forget() when the server refuses the resume; onState(state), onWelcome(frame), onFrame(frame).
 * A state is {phase: connecting | ready | waiting | stopped, reason, retryAt (ms, waiting), attempt}.
 */
export class Client {
  #options;
  #hooks;
  #socket = null;
  #turn = 0; // whoever holds an older turn acts on a connection that is gone
  #requests = new Map();
  #sequence = 0;
  #timers = new Map();
  #fresh = false;
  #advised = false;
  #heard = 0;

  constructor({ url, device, hooks, WebSocket = globalThis.WebSocket, random = Math.random, now = Date.now, info }) {
    this.#options = { url, device, WebSocket, random, now, info: info ?? { name: "chatcluster-web", version: VERSION } };
    this.#hooks = hooks;
    this.state = { phase: "stopped", reason: "", attempt: 0 };
    this.limits = { max_body_bytes: 16_384, page: 100, follow: 20, watch_users: 500 };
  }

  /** Connect now, whatever was planned. */
  start() {
    this.#drop(1000);
    this.#connect();
  }

  /** Leave, and stay away until `start`. */
  stop(reason = "left") {
    this.#drop(1000);
    this.#become({ phase: "stopped", reason });
  }

  get ready() {
    return this.state.phase === "ready";
  }

  /** One request with its answer (`ack` or `reply`). Rejects with Refusal or NoAnswer. */
  request(type, fields, timeout = ANSWER_MS) {
    if (!this.ready) return Promise.reject(new NoAnswer("not connected"));
    if (this.#requests.size >= MAX_REQUESTS) return Promise.reject(new NoAnswer("too many requests wait"));
    const rid = `r${++this.#sequence}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#requests.delete(rid);
        reject(new NoAnswer("no answer in time"));
      }, timeout);
      this.#requests.set(rid, { resolve, reject, timer });
      this.#write({ type, rid, ...fields });
    });
  }

  /** A frame without an answer; dropped while not connected (typing, presence: shed first). */
  tell(type, fields = {}) {
    if (this.ready) this.#write({ type, ...fields });
  }

  async #connect() {
    const turn = ++this.#turn;
    this.#become({ phase: "connecting", reason: "" });
    let token;
    try {
      token = await this.#hooks.token(this.#fresh);
    } catch (error) {
      if (turn === this.#turn) this.#later(error.message, 0);
      return;
    }
    if (turn !== this.#turn) return;
    if (!token) return this.#become({ phase: "stopped", reason: "unauthorized" });
    this.#fresh = false;
    const socket = new this.#options.WebSocket(this.#options.url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#after("welcome", WELCOME_MS, () => this.#lost(turn, 1006, "no welcome in time"));
    const hello = `h${++this.#sequence}`;
    socket.onopen = () => {
      if (turn !== this.#turn) return;
      // The token goes in the first frame, never in the URL.
      const frame = { type: "hello", rid: hello, token, device: this.#options.device, client: this.#options.info };
      const resume = this.#hooks.resume();
      if (resume) frame.resume = resume;
      this.#write(frame);
    };
    socket.onmessage = (message) => {
      if (turn === this.#turn) this.#receive(JSON.parse(message.data), hello, token);
    };
    socket.onclose = (event) => this.#lost(turn, event.code, event.reason);
    socket.onerror = () => {}; // a close event follows and says more
  }

  #receive(frame, hello, token) {
    this.#heard = this.#options.now();
    switch (frame.type) {
      case "ack":
      case "reply":
        return this.#answer(frame.rid, (waiting) => waiting.resolve(frame));
      case "error":
        if (frame.rid === hello && (frame.code === "bad_cursor" || frame.code === "bad_request")) {
          this.#hooks.forget(); // start as a new device: the cursors are no use here
          return this.#lost(this.#turn, 1006, "the cursors were refused");
        }
        return this.#answer(frame.rid, (waiting) => waiting.reject(new Refusal(frame)));
      case "welcome":
        return this.#welcome(frame, token);
      case "reconnect":
        // Rule 4: go elsewhere at after + random(spread), also if the socket is closed before that.
        this.#advised = true;
        this.state = { ...this.state, retryAt: this.#options.now() + frame.after_ms + this.#options.random() * frame.spread_ms };
        this.#after("move", this.state.retryAt - this.#options.now(), () => this.start());
        return undefined;
      case "pong":
        return undefined;
      default:
        return this.#hooks.onFrame(frame);
    }
  }

  #welcome(frame, token) {
    this.#cancel("welcome");
    this.#advised = false;
    this.limits = { ...this.limits, ...frame.limits };
    this.#become({ phase: "ready", reason: "" });
    this.#after("steady", STEADY_MS, () => (this.state.attempt = 0));
    this.#beat(Math.max(1000, frame.heartbeat_ms || 30_000));
    const expiry = expiryOf(token);
    if (expiry) this.#after("renew", Math.min(2 ** 31 - 1, Math.max(1000, (expiry - this.#options.now()) * 0.8)), () => this.#renew());
    this.#hooks.onWelcome(frame);
  }

  #beat(every) {
    this.#after("beat", every, () => {
      if (this.#options.now() - this.#heard > 2.5 * every) return this.#lost(this.#turn, 1006, "the server went silent");
      this.tell("ping");
      this.#beat(every);
    });
  }

  async #renew() {
    try {
      const token = await this.#hooks.token(true);
      if (!token) return;
      const { expires } = await this.request("token", { token });
      const left = Date.parse(expires) - this.#options.now();
      this.#after("renew", Math.min(2 ** 31 - 1, Math.max(60_000, left * 0.8)), () => this.#renew());
    } catch {
      // The server closes with 4413 at the end of the token; then a fresh one is asked for.
    }
  }

  #lost(turn, code, reason) {
    if (turn !== this.#turn) return;
    const asks = afterClose(code);
    const { retryAt } = this.state;
    this.#drop(code === 1006 ? 4408 : 1000);
    if (asks.stop) return this.#become({ phase: "stopped", reason: asks.stop });
    if (asks.refresh) this.#fresh = true;
    if (this.#advised && retryAt) return this.#wait("restart", retryAt);
    return this.#later(reason || `closed with ${code}`, asks.least);
  }

  #later(reason, least) {
    const attempt = Math.max(this.state.attempt, least);
    const delay = backoff(attempt, this.#options.random);
    this.#wait(reason, this.#options.now() + delay, attempt + 1);
  }

  #wait(reason, retryAt, attempt = this.state.attempt) {
    this.#become({ phase: "waiting", reason, retryAt, attempt });
    this.#after("retry", retryAt - this.#options.now(), () => this.start());
  }

  #answer(rid, settle) {
    const waiting = this.#requests.get(rid);
    if (!waiting) return; // given up before: its answer no longer counts (rule 3)
    this.#requests.delete(rid);
    clearTimeout(waiting.timer);
    settle(waiting);
  }

  #drop(code) {
    this.#turn++;
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      try {
        socket.close(code === 1000 ? 1000 : 4000);
      } catch {
        // not open yet, or closed already
      }
    }
    const waiting = [...this.#requests.values()];
    this.#requests.clear();
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(new NoAnswer("the connection ended"));
    }
  }

  #become(change) {
    this.state = { attempt: this.state.attempt, ...change };
    this.#hooks.onState(this.state);
  }

  #write(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #after(name, delay, run) {
    this.#cancel(name);
    this.#timers.set(name, setTimeout(run, Math.max(0, delay)));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** This device's name for the server: one per tab, so two tabs are two devices. */
export function deviceOf(storage) {
  let device = storage.getItem("chatcluster:device");
  if (!device) storage.setItem("chatcluster:device", (device = newKey("web-")));
  return device;
}
