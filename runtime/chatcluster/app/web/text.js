// Words for times, people and message bodies.

import { h } from "./dom.js";

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const lists = new Intl.ListFormat("en", { type: "conjunction" });
const numbers = new Intl.NumberFormat("en");

export const DAY_MS = 86_400_000;
const dayOf = (at) => new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime();
export const sameDay = (a, b) => a.slice(0, 13) === b.slice(0, 13) || dayOf(new Date(a)) === dayOf(new Date(b));
export const clockTime = (time) => clock.format(new Date(time));
export const fullTime = (time) => full.format(new Date(time));
export const count = (number) => numbers.format(number);

/** "Today", "Yesterday", a weekday within a week, else the date. */
export function dayName(time, now = new Date()) {
  const days = Math.round((dayOf(now) - dayOf(new Date(time))) / DAY_MS);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return days > 1 && days < 7 ? weekday.format(new Date(time)) : date.format(new Date(time));
}

/** For the conversation list: the clock today, else the shortest date. */
export function when(time, now = new Date()) {
  const days = Math.round((dayOf(now) - dayOf(new Date(time))) / DAY_MS);
  return days === 0 ? clockTime(time) : days === 1 ? "Yesterday" : short.format(new Date(time));
}

export function ago(time, now = Date.now()) {
  const minutes = Math.max(0, Math.round((now - Date.parse(time)) / 60_000));
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 1440 ? `${Math.round(minutes / 60)} h ago` : when(time);
}

/** "Ada", "Ada and Alan", "Ada, Alan and 3 others". */
export function names(people, most = 3) {
  if (people.length <= most) return lists.format(people).replace(", and", " and");
  return `${people.slice(0, most - 1).join(", ")} and ${people.length - most + 1} others`;
}

const LINK = /https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]}]/gu;

/** A body as nodes: text, and links for http(s) addresses only. */
export function bodyNodes(body) {
  const nodes = [];
  let end = 0;
  for (const { 0: address, index } of body.matchAll(LINK)) {
    if (index > end) nodes.push(body.slice(end, index));
    nodes.push(h("a", { href: address, target: "_blank", rel: "noopener noreferrer", text: address }));
    end = index + address.length;
  }
  if (end < body.length) nodes.push(body.slice(end));
  return nodes;
}

/** Nothing but a few emoji: shown large. */
export const onlyEmoji = (body) => body.length <= 24 && /^(?:\p{Extended_Pictographic}(?:\p{Emoji_Modifier}|\uFE0F|\u200D\p{Extended_Pictographic})*\s?){1,3}$/u.test(body);

export const oneLine = (body, most = 140) => [...body.slice(0, most * 2).replace(/\s+/gu, " ")].slice(0, most).join("");
