// The client's rules, without a browser: run by test_client_rules.py with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

const web = new URL("../../runtime/chatcluster/app/web/", import.meta.url);
const { compareIds, laterId, nextId, place } = await import(new URL("ids.js", web));
const { Client, Refusal, afterClose, backoff, expiryOf } = await import(new URL("client.js", web));
const { Outbox } = await import(new URL("outbox.js", web));
const { Store, view } = await import(new URL("store.js", web));

const storage = () => {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
};
const soon = () => new Promise((resolve) => setTimeout(resolve, 5));
async function until(condition) {
  for (let turn = 0; turn < 400; turn++) {
    if (condition()) return;
    await soon();
  }
  assert.fail("it never came true");
}

// -- ids -----------------------------------------------------------------------------------------------

test("ids are compared by length, then text", () => {
  assert.ok(compareIds("9", "10") < 0);
  assert.ok(compareIds("9007199254740993", "9007199254740992") > 0); // the same as doubles
  assert.equal(compareIds("7", "7"), 0);
  assert.equal(laterId(null, "3"), "3");
  assert.equal(laterId("10", "9"), "10");
  assert.equal(laterId(null, undefined), null);
  assert.equal(nextId("9007199254740993"), "9007199254740994");
});

test("place finds where an id belongs", () => {
  const ids = ["2", "9", "10", "30"];
  assert.deepEqual(place(ids, "10"), { at: 2, found: true });
  assert.deepEqual(place(ids, "1"), { at: 0, found: false });
  assert.deepEqual(place(ids, "11"), { at: 3, found: false });
  assert.deepEqual(place(ids, "31"), { at: 4, found: false });
});

// -- backoff and closes ----------------------------------------------------------------------------------

test("backoff is full jitter between 0 and 0.5 s doubling to 60 s", () => {
  assert.equal(backoff(0, () => 1), 500);
  assert.equal(backoff(3, () => 1), 4000);
  assert.equal(backoff(30, () => 1), 60_000);
  assert.equal(backoff(9, () => 0), 0);
});

test("close codes say what to do", () => {
  assert.equal(afterClose(4401).stop, "unauthorized");
  assert.equal(afterClose(4409).stop, "replaced");
  assert.equal(afterClose(4413).refresh, true);
  assert.ok(afterClose(4429).least > 0);
  assert.deepEqual(afterClose(1012), { least: 0 });
});

test("a token's end is read where it is a JWT", () => {
  assert.equal(expiryOf(`x.${Buffer.from('{"exp":5}').toString("base64url")}.y`), 5000);
  assert.equal(expiryOf("opaque"), null);
});

// -- the store ---------------------------------------------------------------------------------------------

const wire = (id, more = {}) => ({ id, channel: "c", sender: "grace", client_id: `k${id}`, time: "2026-01-01T00:00:00.000Z", body: `body ${id}`, ...more });
const message = (id, live, more) => ({ type: "event", timeline: "inbox", id, channel: "c", kind: "message", live, message: wire(id, more) });
const change = (id, kind, live, more) => ({ type: "event", timeline: "inbox", id, version: id, channel: "c", kind, live, ...more });
const withdrawn = (id, of) => ({ type: "event", timeline: "inbox", id, channel: "c", kind: "retracted", live: false, message_id: id, ...(of ? { of } : {}) });
function opened() {
  const store = new Store({ me: "ada" });
  store.summaries([{ id: "c", kind: "group", name: "C", head: null, read: null, unread: 0, route: "inbox", role: "member", members: 2 }]);
  store.history("c", { messages: [], more: false });
  return store;
}
const shown = (store) => store.visible(store.channel("c")).map(view);
const bodies = (store) => shown(store).map(({ body, gone, deleted }) => (gone ? "(withdrawn)" : deleted ? "(deleted)" : body));

test("messages are upserts shown in id order, a late smaller id where it belongs", () => {
  const store = opened();
  for (const id of ["20", "9", "100", "20"]) store.event(message(id, true));
  assert.deepEqual(shown(store).map(({ id }) => id), ["9", "20", "100"]);
});

test("a second message with the same sender and client_id is hidden; the durable one stays", () => {
  const store = opened();
  store.event(message("5", true, { client_id: "same" }));
  store.event(message("6", false, { client_id: "same" }));
  assert.deepEqual(shown(store).map(({ id }) => id), ["6"]);
  store.event(message("7", true, { client_id: "same", sender: "alan" }));
  assert.deepEqual(shown(store).map(({ id }) => id), ["6", "7"]);
});

test("retracted applies only to what is pending", () => {
  const store = opened();
  store.event(message("5", true));
  store.event(message("6", true));
  store.event(message("6", false)); // the durable copy ends pending
  store.event(withdrawn("5"));
  store.event(withdrawn("6"));
  assert.deepEqual(bodies(store), ["(withdrawn)", "body 6"]);
});

test("a mark proves what it does not list as pending", () => {
  const store = opened();
  store.event(message("5", true));
  store.event(message("6", true));
  store.mark({ inbox: "i1", pending: ["6"] });
  assert.deepEqual(shown(store).map(({ live }) => live), [false, true]);
  store.event(withdrawn("5"));
  store.event(withdrawn("6"));
  assert.deepEqual(bodies(store), ["body 5", "(withdrawn)"]);
  assert.deepEqual(store.resume(), { inbox: "i1", channels: {}, pending: [] });
});

test("an alias stays withdrawn, whatever comes later", () => {
  const store = opened();
  store.event(message("5", false, { client_id: "a" }));
  store.event(withdrawn("8", "5"));
  store.event(message("8", true, { client_id: "a" }));
  assert.deepEqual(bodies(store), ["body 5"]);
});

test("the highest version of an edit wins, and a withdrawn edit gives back what was", () => {
  const store = opened();
  store.event(message("5", false));
  store.event(change("30", "edited", true, { message: wire("5", { body: "third", edited: "t" }) }));
  store.event(change("20", "edited", false, { message: wire("5", { body: "second", edited: "t" }) }));
  assert.deepEqual(bodies(store), ["third"]);
  store.event(withdrawn("30"));
  assert.deepEqual(bodies(store), ["second"]);
  store.event(message("5", false)); // a replay brings the first body again
  assert.deepEqual(bodies(store), ["second"]);
});

test("a change may come before its message", () => {
  const store = opened();
  store.event(change("30", "edited", false, { message: wire("5", { body: "edited" }) }));
  store.event(change("31", "reaction", false, { message_id: "5", user: "alan", emoji: "👍", removed: false }));
  assert.deepEqual(bodies(store), []);
  store.event(message("5", false));
  assert.deepEqual(bodies(store), ["edited"]);
  assert.deepEqual(shown(store)[0].reactions, new Map([["👍", ["alan"]]]));
});

test("a deleted message never returns; a delete that never became true does", () => {
  const store = opened();
  store.event(message("5", false));
  store.event(change("20", "deleted", true, { message_id: "5" }));
  assert.deepEqual(bodies(store), ["(deleted)"]);
  store.event(withdrawn("20"));
  assert.deepEqual(bodies(store), ["body 5"]);
  store.event(change("21", "deleted", false, { message_id: "5" }));
  store.event(change("40", "edited", false, { message: wire("5", { body: "again" }) }));
  store.event(message("5", false));
  assert.deepEqual(bodies(store), ["(deleted)"]);
});

test("reactions: the newest word of each user counts", () => {
  const store = opened();
  const react = (id, user, removed) => store.event(change(id, "reaction", false, { message_id: "5", user, emoji: "👍", removed }));
  store.event(message("5", false));
  react("12", "alan", true);
  react("11", "alan", false);
  react("10", "grace", false);
  assert.deepEqual(shown(store)[0].reactions, new Map([["👍", ["grace"]]]));
});

test("history joins what came live, without holes or repeats", () => {
  const store = new Store({ me: "ada" });
  store.event(message("50", true));
  store.history("c", { messages: ["30", "40", "50"].map((id) => wire(id)), more: true });
  store.history("c", { messages: ["10", "20"].map((id) => wire(id)), more: false }, { before: "30" });
  assert.deepEqual(shown(store).map(({ id }) => id), ["10", "20", "30", "40", "50"]);
  assert.equal(store.pending.size, 0); // history is durable
  assert.equal(store.channel("c").floor, "0");
});

test("what lies before the window is held back, not shown with a hole", () => {
  const store = new Store({ me: "ada" });
  store.event(message("5", true));
  store.history("c", { messages: [wire("40")], more: true });
  assert.deepEqual(shown(store).map(({ id }) => id), ["40"]);
});

test("unread counts follow messages and the read mark of another device", () => {
  const store = opened();
  for (const id of ["10", "20", "30"]) store.event(message(id, true));
  store.event(message("40", true, { sender: "ada" }));
  assert.equal(store.unread(store.channel("c")), 3);
  store.event(change("41", "read", true, { user: "ada", message_id: "20" }));
  assert.equal(store.unread(store.channel("c")), 1);
  store.event(change("42", "read", true, { user: "ada", message_id: "10" })); // never back
  assert.equal(store.unread(store.channel("c")), 1);
  store.event(change("43", "read", true, { user: "ada", message_id: "40" }));
  assert.equal(store.unread(store.channel("c")), 0);
});

test("member, name and route events keep the highest version", () => {
  const store = opened();
  store.event({ ...change("9", "channel", false, { name: "New", change: "renamed" }), version: "9" });
  store.event({ ...change("8", "channel", false, { name: "Old", change: "renamed" }), version: "8" });
  assert.equal(store.channel("c").name, "New");
  assert.equal(store.event({ ...change("11", "route", false, { to: "channel", cursor: "x" }), version: "11" }), "route");
  assert.equal(store.event({ ...change("11", "route", false, { to: "channel", cursor: "x" }), version: "11" }), null);
});

test("state and cursors are saved as one and come back", () => {
  const store = opened();
  store.event(message("5", false));
  store.event(message("6", true));
  store.mark({ inbox: "i9", pending: ["6"] });
  const again = new Store({ me: "ada" });
  assert.ok(again.load(store.dump()));
  assert.deepEqual(again.resume(), { inbox: "i9", channels: {}, pending: ["6"] });
  assert.deepEqual(bodies(again), ["body 5", "body 6"]);
  again.event(withdrawn("6"));
  assert.deepEqual(bodies(again), ["body 5", "(withdrawn)"]);
  assert.equal(new Store({ me: "grace" }).load(store.dump()), false);
});

test("memory is bounded: the oldest go, and are asked for again", () => {
  const store = opened();
  for (let id = 100; id < 400; id++) store.event(message(String(id), false));
  const channel = store.channel("c");
  store.trim(channel, 50);
  assert.equal(channel.messages.size, 50);
  assert.equal(channel.keys.size, 50);
  assert.equal(channel.floor, "350");
});

test("an ack shows the message where its event never came, under the winning id", () => {
  const store = opened();
  store.event(message("5", true, { sender: "ada", client_id: "w1" }));
  store.acked({ channel: "c", client_id: "w1", body: "hi" }, { id: "9", time: "2026-01-01T00:00:00.000Z" });
  assert.deepEqual(shown(store).map(({ id, live }) => [id, live]), [["9", false]]);
});

// -- the outbox ---------------------------------------------------------------------------------------------

function outboxOf(request, { ready = () => true, kept = storage(), now = Date.now } = {}) {
  const settled = [];
  const hooks = { ready, after: () => "77", onSettled: (item, ack) => settled.push(ack.id), onChange: () => {} };
  return { outbox: new Outbox({ request, storage: kept, key: "o", hooks, now, random: () => 0 }), settled, kept };
}

test("a send without an answer is repeated with the same client_id and retry", async () => {
  const frames = [];
  const { outbox, settled } = outboxOf(async (type, fields) => {
    frames.push(fields);
    if (frames.length === 1) throw new Error("no answer");
    return { id: "5" };
  });
  outbox.add("send", { channel: "c", body: "hi" });
  await until(() => settled.length);
  assert.equal(frames.length, 2);
  assert.equal(frames[0].client_id, frames[1].client_id);
  assert.equal(frames[0].retry, undefined);
  assert.equal(frames[1].retry, true);
  assert.equal(frames[0].after, "77");
});

test("sends of one channel stay in order, also when the first is refused for a while", async () => {
  const bodies = [];
  let refuse = 2;
  const { outbox, settled } = outboxOf(async (type, { body }) => {
    if (body === "a" && refuse-- > 0) throw new Refusal({ code: "overloaded", message: "later", retryable: true, retry_after_ms: 1 });
    bodies.push(body);
    return { id: String(bodies.length) };
  });
  for (const body of ["a", "b", "c"]) outbox.add("send", { channel: "c", body });
  await until(() => settled.length === 3);
  assert.deepEqual(bodies, ["a", "b", "c"]);
});

test("what is refused for good fails, and lets the next one go", async () => {
  const { outbox, settled } = outboxOf(async (type, { body }) => {
    if (body === "bad") throw new Refusal({ code: "body_too_long", message: "too long", retryable: false });
    return { id: "1" };
  });
  const bad = outbox.add("send", { channel: "c", body: "bad" });
  outbox.add("send", { channel: "c", body: "good" });
  await until(() => settled.length === 1);
  assert.equal(bad.state, "failed");
  assert.equal(outbox.discard(bad.fields.client_id), bad);
  assert.equal(outbox.items.length, 0);
});

test("a reload repeats what was on its way, marked as a retry", async () => {
  const kept = storage();
  outboxOf(() => new Promise(() => {}), { kept }).outbox.add("send", { channel: "c", body: "hi" });
  const frames = [];
  const { outbox, settled } = outboxOf(async (type, fields) => {
    frames.push(fields);
    return { id: "1" };
  }, { kept });
  outbox.resume();
  await until(() => settled.length);
  assert.equal(frames[0].retry, true);
});

test("nothing is repeated after 24 hours", () => {
  let now = 0;
  const frames = [];
  const { outbox } = outboxOf(async (type, fields) => frames.push(fields), { ready: () => now > 0, now: () => now });
  const item = outbox.add("send", { channel: "c", body: "hi" });
  now = 25 * 3600 * 1000;
  outbox.kick();
  assert.equal(item.state, "failed");
  assert.equal(frames.length, 0);
});

test("the outbox is bounded: the newcomer is refused", () => {
  const { outbox } = outboxOf(async () => {}, { ready: () => false });
  for (let count = 0; count < 200; count++) assert.ok(outbox.add("send", { channel: "c", body: "x" }));
  assert.equal(outbox.add("send", { channel: "c", body: "x" }), null);
});

// -- the connection -------------------------------------------------------------------------------------------

class Socket {
  static all = [];
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, sent: [], readyState: 1 });
    Socket.all.push(this);
    queueMicrotask(() => this.onopen?.());
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.closed = code;
    this.readyState = 3;
  }
  say(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }
  welcome() {
    this.say({ type: "welcome", rid: this.sent[0].rid, heartbeat_ms: 60_000, resumed: false, inbox: "i0", follow: {}, limits: { page: 7 } });
  }
}

async function connected(t, more = {}) {
  Socket.all = [];
  const seen = { states: [], frames: [], tokens: [], forgot: 0 };
  const client = new Client({
    url: "ws://x/v1/connect",
    device: "d1",
    WebSocket: Socket,
    random: () => 0,
    hooks: {
      token: async (fresh) => (seen.tokens.push(fresh), "secret"),
      resume: () => ({ inbox: "i7", channels: { big: "b2" }, pending: ["5"] }),
      forget: () => seen.forgot++,
      onState: (state) => seen.states.push(state),
      onWelcome: () => {},
      onFrame: (frame) => seen.frames.push(frame),
      ...more,
    },
  });
  t.after(() => client.stop());
  client.start();
  await until(() => Socket.all.at(-1)?.sent.length);
  return { client, seen, socket: Socket.all.at(-1) };
}

test("hello carries token, device and resume; the URL carries no token", async (t) => {
  const { client, socket } = await connected(t);
  assert.equal(socket.url, "ws://x/v1/connect");
  assert.deepEqual(socket.protocols, ["chatcluster.v1.json"]);
  const { type, token, device, resume } = socket.sent[0];
  assert.deepEqual([type, token, device], ["hello", "secret", "d1"]);
  assert.deepEqual(resume, { inbox: "i7", channels: { big: "b2" }, pending: ["5"] });
  socket.welcome();
  assert.ok(client.ready);
  assert.equal(client.limits.page, 7);
});

test("an answer finds its request; a lost connection gives all of them up", async (t) => {
  const { client, socket } = await connected(t);
  socket.welcome();
  const first = client.request("history", { channel: "c" });
  const second = client.request("history", { channel: "d" });
  socket.say({ type: "error", rid: socket.sent.at(-1).rid, code: "no_such_channel", message: "no", retryable: false });
  await assert.rejects(second, Refusal);
  socket.onclose({ code: 1006, reason: "" });
  await assert.rejects(first, /ended/);
  socket.onmessage?.({ data: "{}" });
});

test("a lost connection is made again, a session taken over is not", async (t) => {
  const { client, socket } = await connected(t);
  socket.welcome();
  socket.onclose({ code: 1006, reason: "" });
  await until(() => Socket.all.length === 2 && Socket.all[1].sent.length);
  Socket.all[1].welcome();
  Socket.all[1].onclose({ code: 4409, reason: "" });
  assert.deepEqual([client.state.phase, client.state.reason], ["stopped", "replaced"]);
  await soon();
  assert.equal(Socket.all.length, 2);
});

test("an ended token is asked for afresh", async (t) => {
  const { seen, socket } = await connected(t);
  socket.welcome();
  socket.onclose({ code: 4413, reason: "" });
  await until(() => seen.tokens.length === 2);
  assert.deepEqual(seen.tokens, [false, true]);
});

test("an advised reconnect comes at its time, also when the socket is closed before", async (t) => {
  const { client, socket } = await connected(t);
  socket.welcome();
  socket.say({ type: "reconnect", after_ms: 60, spread_ms: 1000, reason: "drain" });
  socket.onclose({ code: 1012, reason: "restart" });
  assert.equal(client.state.phase, "waiting");
  const left = client.state.retryAt - Date.now();
  assert.ok(left > 20 && left <= 60, `waits ${left} ms`);
  await until(() => Socket.all.length === 2);
});

test("cursors the server refuses are forgotten", async (t) => {
  const { seen, socket } = await connected(t);
  socket.say({ type: "error", rid: socket.sent[0].rid, code: "bad_cursor", message: "no", retryable: false });
  assert.equal(seen.forgot, 1);
});
