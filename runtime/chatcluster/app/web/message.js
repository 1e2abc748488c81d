// One message and everything that may happen to it, in any order, told early or proven. Pure data, JSON-able.

import { compareIds } from "./ids.js";

/** A message not heard of yet: changes may come before the message itself. */
export const stub = (id) => ({ id, known: false, live: false, gone: null, hidden: false, base: null, edits: [], deletes: [], reactions: {}, rev: 0 });

// A cell is an ascending list of {version, live, value}: the highest version is in force (rule 1). What is below
// the highest durable one can never matter again and is dropped; live ones above it may still be withdrawn.

/** Put one version into a cell; a durable copy ends what was pending. Returns whether it is now pending. */
export function putCell(cell, version, live, value) {
  let at = cell.length;
  while (at > 0 && compareIds(cell[at - 1].version, version) > 0) at--;
  const same = at > 0 && cell[at - 1].version === version ? cell[at - 1] : null;
  if (same) same.live &&= live;
  else if (at === 0 && cell.length && !cell[0].live) return false; // below a durable one: history
  else cell.splice(at, 0, { version, live, value });
  prune(cell);
  return cell.some((entry) => entry.version === version && entry.live);
}

function prune(cell) {
  for (let at = cell.length - 1; at > 0; at--) {
    if (!cell[at].live) return void cell.splice(0, at);
  }
}

function prove(cell, version) {
  for (const entry of cell) if (entry.version === version) entry.live = false;
  prune(cell);
}

function withdraw(cell, version) {
  const at = cell.findIndex((entry) => entry.version === version && entry.live);
  if (at >= 0) cell.splice(at, 1);
}

const top = (cell) => cell[cell.length - 1];

/** Every cell of a message, for what is told by event id alone. */
const cells = (message) => [message.edits, message.deletes, ...Object.values(message.reactions)];

/** `id` (of the message, or of a change to it) is durable. */
export function proveIn(message, id) {
  if (message.id === id) message.live = false;
  for (const cell of cells(message)) prove(cell, id);
  message.rev++;
}

/** `id` never became true. Only what is still pending is withdrawn. */
export function withdrawIn(message, id) {
  if (message.id === id && message.live) {
    message.live = false;
    message.gone = "withdrawn";
  }
  for (const cell of cells(message)) withdraw(cell, id);
  message.rev++;
}

/** The message event itself. Returns whether it is pending. */
export function putMessage(message, wire, live) {
  if (message.gone === "alias") return false; // an alias stays withdrawn
  if (message.known && !message.gone) {
    message.live &&= live;
  } else if (!message.gone || !live) {
    message.base ??= wire; // history may have brought a later body
    Object.assign(message, { known: true, live, gone: null });
  }
  message.rev++;
  return message.live;
}

/** A message as history shows it: durable, with its changes so far applied. */
export function putHistory(message, wire) {
  if (message.gone === "alias") return;
  Object.assign(message, { base: wire, known: true, live: false, gone: null });
  message.rev++;
}

/** An edit: carries the whole message, so it may come first. */
export function putEdit(message, wire, version, live) {
  const { body, data, edited } = wire;
  const pending = putCell(message.edits, version, live, { body, data, edited });
  message.rev++;
  return pending;
}

export function putDelete(message, version, live) {
  const pending = putCell(message.deletes, version, live, true);
  message.rev++;
  return pending;
}

export function putReaction(message, { user, emoji, removed = false }, version, live) {
  const cell = (message.reactions[`${user}\n${emoji}`] ??= []);
  const pending = putCell(cell, version, live, { user, emoji, removed });
  message.rev++;
  return pending;
}

/** What people see: the highest version of everything. reactions: Map emoji -> [users]. */
export function view(message) {
  const { base } = message;
  const edit = top(message.edits)?.value;
  const deleted = Boolean(base.deleted) || message.deletes.length > 0; // a deleted message never returns
  const reactions = new Map();
  if (!deleted) {
    for (const [emoji, users] of Object.entries(base.reactions ?? {})) reactions.set(emoji, new Set(users));
    for (const cell of Object.values(message.reactions)) {
      if (!cell.length) continue; // its only version was withdrawn
      const { user, emoji, removed } = top(cell).value;
      if (!reactions.has(emoji)) reactions.set(emoji, new Set());
      if (removed) reactions.get(emoji).delete(user);
      else reactions.get(emoji).add(user);
    }
  }
  return {
    id: message.id,
    channel: base.channel,
    sender: base.sender,
    client_id: base.client_id,
    time: base.time,
    reply_to: base.reply_to ?? null,
    body: deleted ? "" : edit?.body ?? base.body,
    edited: !deleted && Boolean(edit ?? base.edited),
    deleted,
    live: message.live,
    gone: message.gone,
    reactions: new Map([...reactions].filter(([, users]) => users.size).map(([emoji, users]) => [emoji, [...users]])),
  };
}
