// Ids and versions are strings of decimal digits beyond 2^53: never numbers here.

/** Orders two ids: by length, then by text. Negative, zero or positive. */
export const compareIds = (a, b) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);

/** The later of two ids; either may be null. */
export const laterId = (a, b) => (a == null ? b ?? null : b == null || compareIds(a, b) >= 0 ? a : b);

/** The id right after this one: makes an exclusive bound inclusive. */
export const nextId = (id) => String(BigInt(id) + 1n);

/** Where `id` is, or belongs, in an ascending array of ids: { at, found }. Looks from the end: news come there. */
export function place(ids, id) {
  let high = ids.length;
  if (!high || compareIds(ids[high - 1], id) < 0) return { at: high, found: false };
  let low = 0;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareIds(ids[middle], id) < 0) low = middle + 1;
    else high = middle;
  }
  return { at: low, found: ids[low] === id };
}

/** A key nobody else makes: 96 random bits. Works without a secure context, unlike crypto.randomUUID. */
export function newKey(prefix = "") {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
