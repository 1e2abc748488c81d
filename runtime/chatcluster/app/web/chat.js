// The page: who is here, which conversation is open, and what the connection does. Wires the rooms together.

import { expiryOf } from "./client.js";
import { Composer } from "./composer.js";
import { DetailsDialog, NewDialog } from "./dialogs.js";
import { avatar, byId, h } from "./dom.js";
import { List } from "./list.js";
import { Log } from "./log.js";
import { People } from "./people.js";
import { Session } from "./session.js";
import { ago, count, names } from "./text.js";

const TOKEN = "chatcluster:token";
const AWAY_MS = 60_000;

class Page {
  constructor({ me, token, known }) {
    this.me = me;
    this.people = new People(known, me);
    this.dirty = new Set();
    this.planned = false;
    this.was = null; // the phase before this one
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.session = new Session({
      me,
      token,
      url: `${scheme}//${location.host}/v1/connect`,
      storage: sessionStorage,
      onChange: (channel) => this.plan(channel),
      onState: (state) => this.connection(state),
    });
    const { session, people } = this;
    const open = (id) => this.open(id, true);
    this.list = new List({ session, people, open });
    this.composer = new Composer({
      session,
      people,
      hooks: {
        sent: () => {
          this.log.clearDivider();
          this.log.toEnd();
        },
        editLast: () => this.log.lastOwn(),
        leaveInput: () => this.log.focusLast(),
      },
    });
    this.log = new Log({
      session,
      people,
      actions: {
        reply: (message) => this.composer.reply(message),
        edit: (message) => this.composer.edit(message),
        remove: (message) => session.remove(message.channel, message.id),
        react: (message, emoji) => session.react(message.channel, message.id, emoji, message.reactions.get(emoji)?.includes(me) ?? false),
        retry: (clientId) => session.outbox.retry(clientId),
        discard: (clientId) => {
          const item = session.outbox.discard(clientId);
          if (item) this.composer.restore(item.fields.body);
        },
      },
    });
    this.new = new NewDialog({ session, people, open });
    this.details = new DetailsDialog({ session, people, left: () => this.close() });
    this.listen();
  }

  start() {
    byId("welcome").hidden = true;
    byId("app").hidden = false;
    byId("me-avatar").replaceChildren(avatar(this.me, this.people.name(this.me)));
    byId("me-name").textContent = this.people.name(this.me);
    this.draw(new Set([null]));
    this.session.start();
  }

  listen() {
    byId("new").addEventListener("click", () => this.new.show());
    byId("details").addEventListener("click", () => this.details.show(this.session.open));
    byId("back").addEventListener("click", () => this.close());
    byId("sign-out").addEventListener("click", () => this.signOut());
    byId("banner-action").addEventListener("click", () => this.mend());
    addEventListener("keydown", (event) => this.keys(event));
    addEventListener("focus", () => this.plan(this.session.open));
    // A page that is kept for the back button holds no connection: its person has left, and may come back.
    addEventListener("pagehide", () => this.session.stop());
    addEventListener("pageshow", (event) => event.persisted && this.session.start());
    addEventListener("online", () => this.session.client.state.phase === "waiting" && this.session.client.start());
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.away);
      if (document.hidden) this.away = setTimeout(() => this.session.setStatus("away"), AWAY_MS);
      else this.session.setStatus("online");
      this.plan(this.session.open);
    });
  }

  // -- drawing, once per frame whatever came in -------------------------------------------------------------

  plan(channel) {
    this.dirty.add(channel);
    if (this.planned) return;
    this.planned = true;
    const run = () => {
      this.planned = false;
      const { dirty } = this;
      this.dirty = new Set();
      this.draw(dirty);
    };
    // A hidden page gets no animation frames; its title still counts.
    if (document.hidden) setTimeout(run, 200);
    else requestAnimationFrame(run);
  }

  draw(dirty) {
    const { open } = this.session;
    const unread = this.list.draw();
    document.title = unread ? `(${unread}) ChatCluster` : "ChatCluster";
    if (!open || !(dirty.has(open) || dirty.has(null))) return;
    this.head(this.session.store.channel(open));
    this.log.draw();
    if (byId("details-dialog").open) this.details.draw();
  }

  head(channel) {
    const { store } = this.session;
    const title = this.people.title(channel);
    const presence = channel.peer ? store.presence.get(channel.peer) : null;
    const status = channel.peer && channel.peer !== this.me ? presence?.status ?? "offline" : null;
    const sign = JSON.stringify([channel.id, title, status]);
    if (this.headSign !== sign) byId("head-avatar").replaceChildren(avatar(channel.peer ?? channel.id, title, { status, group: !channel.peer }));
    this.headSign = sign;
    byId("title").textContent = title;
    byId("subtitle").textContent = this.subtitle(channel, presence);
    const typers = store.typers(channel).map((user) => this.people.first(user));
    byId("typing").textContent = typers.length ? `${names(typers)} ${typers.length > 1 ? "are" : "is"} typing…` : "";
    this.composer.lock(channel.left ? "You are no longer a member here." : null);
  }

  subtitle(channel, presence) {
    if (channel.peer) {
      if (!presence) return "";
      const { status, since } = presence;
      return status === "offline" ? (Date.parse(since) > 0 ? `last seen ${ago(since)}` : "offline") : status;
    }
    const members = this.session.members(channel.id);
    const online = members?.filter(({ user }) => user === this.me || ["online", "away"].includes(this.session.store.presence.get(user)?.status)).length;
    return `${count(channel.members)} ${channel.members === 1 ? "member" : "members"}${online ? `, ${online} online` : ""}`;
  }

  // -- conversations ----------------------------------------------------------------------------------------------

  open(id, focus) {
    for (const part of ["head", "stage", "composer"]) byId(part).hidden = false;
    byId("nothing").hidden = true;
    byId("app").dataset.view = "chat";
    this.session.visit(id);
    this.head(this.session.store.channel(id));
    this.log.show(id);
    this.composer.show(id);
    this.list.draw();
    if (focus && matchMedia("(hover: hover)").matches) this.composer.focus();
  }

  close() {
    const { open } = this.session;
    this.session.leave();
    for (const part of ["head", "stage", "composer"]) byId(part).hidden = true;
    byId("nothing").hidden = false;
    byId("typing").textContent = "";
    byId("app").dataset.view = "list";
    this.list.draw();
    byId("rooms").querySelector(`[data-channel="${CSS.escape(open ?? "")}"]`)?.focus();
  }

  step(by) {
    const shown = this.list.shown();
    if (!shown.length) return;
    const at = shown.findIndex(({ id }) => id === this.session.open);
    const next = shown[at < 0 ? 0 : (at + by + shown.length) % shown.length];
    this.open(next.id, true);
  }

  keys(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      this.step(event.key === "ArrowUp" ? -1 : 1);
    } else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "Escape") {
      this.escape();
    } else if (event.key === "Enter" && event.target === byId("search")) {
      const [first] = this.list.shown();
      if (first) this.open(first.id, true);
    }
  }

  // Outward, one step at a time: the search, an edit or reply, the "New" line, back to the end and the field.
  escape() {
    const search = byId("search");
    if (document.activeElement === search) {
      search.value = "";
      this.list.draw();
    } else if (this.composer.cancel()) return;
    if (!this.session.open) return;
    this.log.clearDivider();
    this.log.toEnd();
    this.composer.focus();
  }

  // -- the connection -----------------------------------------------------------------------------------------------

  connection(state) {
    clearInterval(this.ticking);
    clearTimeout(this.slow);
    const { phase, reason } = state;
    const words = { ready: "online", connecting: "connecting…", waiting: "offline", stopped: "offline" };
    byId("me-state").textContent = words[phase];
    byId("me-state").className = `me-state ${phase}`;
    if (phase === "ready") {
      if (this.was === "waiting" || this.was === "stopped") this.banner("good", "Connected again. What you missed is here.", null, 2600);
      else this.banner(null);
      this.was = phase;
    } else if (phase === "connecting") {
      // Soon over, as a rule: what the banner said before stays until it is.
      this.slow = setTimeout(() => this.banner("bad", `Connecting…${this.waiting()}`), this.was === "waiting" ? 0 : 1200);
    } else if (phase === "waiting") {
      this.was = phase;
      const tick = () => {
        const seconds = Math.max(0, Math.ceil((state.retryAt - Date.now()) / 1000));
        byId("banner-count").textContent = ` Reconnecting ${seconds ? `in ${seconds} s` : "now"}.`;
      };
      this.banner("bad", `${reason === "restart" ? "The server restarts." : "The connection is lost."}${this.waiting()}`, "Try now");
      tick();
      this.ticking = setInterval(tick, 250);
    } else if (reason === "unauthorized") {
      sessionStorage.removeItem(TOKEN);
      this.banner("bad", "Your access has ended.", "Sign in again");
    } else if (reason === "forbidden") {
      this.banner("bad", "This page may not connect to this server.", "Try again");
    } else if (reason === "replaced") {
      this.banner("bad", "This session goes on in another tab.", "Use it here");
    }
    this.plan(null);
  }

  waiting() {
    const number = this.session.outbox.items.filter(({ state }) => state !== "failed").length;
    return number ? ` ${number === 1 ? "1 message waits" : `${number} messages wait`} and will be sent.` : "";
  }

  banner(kind, text = "", action = null, hide = 0) {
    const bar = byId("banner");
    clearTimeout(this.hiding);
    bar.hidden = !kind;
    bar.className = `banner ${kind ?? ""}`;
    byId("banner-text").textContent = text;
    byId("banner-count").textContent = "";
    byId("banner-action").hidden = !action;
    byId("banner-action").textContent = action ?? "";
    if (hide) this.hiding = setTimeout(() => (bar.hidden = true), hide);
  }

  mend() {
    const { phase, reason } = this.session.client.state;
    if (phase === "stopped" && reason === "unauthorized") return this.signOut();
    if (phase === "stopped" && reason === "replaced") {
      this.session.save(); // a tab that was duplicated gets a name of its own
      sessionStorage.removeItem("chatcluster:device");
      return location.reload();
    }
    return this.session.client.start();
  }

  signOut() {
    this.session.stop();
    sessionStorage.clear();
    location.href = location.pathname;
  }
}

// -- signing in ---------------------------------------------------------------------------------------------------------

async function demoUsers() {
  try {
    const response = await fetch("demo/users");
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

async function demoToken(user) {
  const response = await fetch(`demo/token/${encodeURIComponent(user)}`);
  if (response.status === 404 || response.status === 403) return null;
  if (!response.ok) throw new Error("no token now");
  return (await response.json()).token;
}

function userOf(token) {
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (letter) => letter.charCodeAt(0)))).sub ?? null;
  } catch {
    return null;
  }
}

function complain(text) {
  byId("welcome-error").hidden = false;
  byId("welcome-error").textContent = text;
}

function begin(options) {
  const page = new Page(options);
  page.start();
}

async function main() {
  const known = await demoUsers();
  const wanted = new URLSearchParams(location.search).get("user");
  if (known) {
    const as = (user) => begin({ me: user, known, token: () => demoToken(user) });
    if (known.some(({ user }) => user === wanted)) return as(wanted);
    byId("welcome-hint").textContent = "A demo: choose somebody to be. Open a second window to be somebody else.";
    byId("people").replaceChildren(
      ...known.map(({ user, name }) =>
        h("button", { class: "person", type: "button", "data-user": user, on: { click: () => {
          history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
          as(user);
        } } }, avatar(user, name), h("bdi", { text: name })),
      ),
    );
  } else {
    const as = (token) => {
      const me = userOf(token);
      if (!me) return complain("That is not a token of this platform.");
      if ((expiryOf(token) ?? Infinity) < Date.now()) return complain("That token has ended. Ask for a new one.");
      sessionStorage.setItem(TOKEN, token);
      return begin({ me, known: [], token: async () => sessionStorage.getItem(TOKEN) });
    };
    const kept = sessionStorage.getItem(TOKEN);
    if (kept && userOf(kept) && (expiryOf(kept) ?? Infinity) > Date.now()) return as(kept);
    byId("welcome-hint").textContent = "Sign in with an access token of your platform.";
    byId("token-form").hidden = false;
    byId("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      byId("welcome-error").hidden = true;
      as(byId("token").value.trim());
    });
  }
  byId("welcome").hidden = false;
  byId("welcome").querySelector("button, input")?.focus();
  return undefined;
}

main();
