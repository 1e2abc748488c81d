// The two dialogs: a new conversation, and the details of one.

import { avatar, byId, h } from "./dom.js";
import { count } from "./text.js";

const problem = (id, text) => {
  byId(id).hidden = !text;
  byId(id).textContent = text ?? "";
};

function prepare(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

/** Enter in a field presses its button instead of submitting the whole form. */
function enter(field, button) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    button.click();
  });
}

export class NewDialog {
  #dialog = byId("new-dialog");
  #session;
  #people;
  #open;
  #chosen = new Map();

  constructor({ session, people, open }) {
    this.#session = session;
    this.#people = people;
    this.#open = open;
    prepare(this.#dialog);
    byId("new-add").addEventListener("click", () => this.#add());
    enter(byId("new-user"), byId("new-add"));
    this.#dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
  }

  show() {
    const others = this.#people.all().filter(({ user }) => user !== this.#session.me);
    this.#chosen = new Map(others.map(({ user }) => [user, false]));
    byId("new-user").value = byId("new-name").value = "";
    problem("new-problem", null);
    this.#draw();
    this.#dialog.showModal();
  }

  #add() {
    const field = byId("new-user");
    const user = field.value.trim();
    if (!user || user === this.#session.me) return;
    this.#chosen.set(user, true);
    field.value = "";
    this.#draw();
    field.focus();
  }

  #draw() {
    byId("new-people").replaceChildren(
      ...[...this.#chosen].map(([user, chosen]) => {
        const box = h("input", { type: "checkbox", value: user, on: { change: (event) => this.#choose(user, event.target.checked) } });
        box.checked = chosen;
        const name = this.#people.name(user);
        return h("label", { class: "choice" }, avatar(user, name, { small: true }), h("bdi", { text: name }), box);
      }),
    );
    this.#summary();
  }

  #choose(user, chosen) {
    this.#chosen.set(user, chosen);
    this.#summary();
  }

  #members() {
    return [...this.#chosen].filter(([, chosen]) => chosen).map(([user]) => user);
  }

  #summary() {
    const members = this.#members();
    byId("new-group").hidden = members.length < 2;
    byId("new-create").disabled = members.length === 0;
    byId("new-create").textContent = members.length > 1 ? "Create group" : "Start conversation";
  }

  async #create() {
    const members = this.#members();
    if (!members.length) return;
    const group = members.length > 1;
    const name = byId("new-name").value.trim() || members.map((user) => this.#people.first(user)).join(", ").slice(0, 60);
    const button = byId("new-create");
    button.disabled = true;
    try {
      const id = await this.#session.create(group ? "group" : "direct", members, group ? name : undefined);
      this.#dialog.close();
      this.#open(id);
    } catch (error) {
      problem("new-problem", `That did not work: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  }
}

export class DetailsDialog {
  #dialog = byId("details-dialog");
  #session;
  #people;
  #left;
  #channel = null;

  constructor({ session, people, left }) {
    this.#session = session;
    this.#people = people;
    this.#left = left;
    prepare(this.#dialog);
    this.#dialog.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    enter(byId("details-name"), byId("details-save"));
    enter(byId("details-user"), byId("details-add"));
    byId("details-save").addEventListener("click", () => this.#do("channel.update", { name: byId("details-name").value.trim() }));
    byId("details-add").addEventListener("click", () => this.#do("channel.add", { users: [byId("details-user").value.trim()] }));
    byId("details-leave").addEventListener("click", async () => {
      if (!(await this.#do("channel.leave"))) return;
      this.#dialog.close();
      this.#left();
    });
  }

  show(id) {
    this.#channel = id;
    problem("details-problem", null);
    const channel = this.#session.store.channel(id);
    byId("details-name").value = channel.name ?? "";
    byId("details-user").value = "";
    this.draw();
    this.#dialog.showModal();
    this.#session.roster(id);
  }

  draw() {
    if (!this.#channel) return;
    const { store, me } = this.#session;
    const channel = store.channel(this.#channel);
    const admin = channel.kind === "group" && ["owner", "admin"].includes(channel.role);
    byId("details-title").textContent = this.#people.title(channel);
    byId("details-rename").hidden = byId("details-more").hidden = !admin;
    byId("details-leave").hidden = channel.kind === "direct";
    const members = this.#session.members(channel.id);
    const large = channel.route === "channel" ? " This conversation is large: it is read from a timeline of its own." : "";
    byId("details-count").textContent = channel.kind === "direct" ? "A conversation between two." : `${count(channel.members)} members.${large}`;
    byId("details-members").replaceChildren(
      ...(members ?? []).map(({ user, role }) => {
        const name = this.#people.name(user);
        const status = user === me ? this.#session.status : store.presence.get(user)?.status ?? "offline";
        return h("li", {}, avatar(user, name, { status, small: true }), h("bdi", { text: user === me ? `${name} (you)` : name }), h("span", { class: "role", text: role === "member" ? "" : role }));
      }),
    );
  }

  async #do(type, fields) {
    problem("details-problem", null);
    try {
      await this.#session.administer(type, this.#channel, fields);
      byId("details-user").value = "";
      if (type === "channel.add") await this.#session.roster(this.#channel);
      return true;
    } catch (error) {
      problem("details-problem", `That did not work: ${error.message}`);
      return false;
    }
  }
}
