// Who is called what. Without a directory the user id is the name.

export class People {
  #names;
  #me;

  /** known: [{user, name}]. */
  constructor(known, me) {
    this.#names = new Map(known.map(({ user, name }) => [user, name]));
    this.#me = me;
  }

  all() {
    return [...this.#names].map(([user, name]) => ({ user, name }));
  }

  name(user) {
    return this.#names.get(user) ?? user;
  }

  first(user) {
    return this.name(user).split(/\s/u)[0];
  }

  /** What a conversation is called. */
  title(channel) {
    if (channel.peer) return channel.peer === this.#me ? `${this.name(channel.peer)} (you)` : this.name(channel.peer);
    return channel.name || (channel.kind === "direct" ? "Direct conversation" : "Group");
  }
}
