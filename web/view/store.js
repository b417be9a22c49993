/**
 * The explorer's state, and who wants to know when it changes.
 *
 * @template State
 */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    this.listeners = new Set();
  }

  /** @param {Partial<State>} change */
  set(change) {
    const before = this.state;
    this.state = { ...before, ...change };
    for (const listener of this.listeners) listener(this.state, before);
  }

  /** Calls the listener now and after each change. */
  watch(listener) {
    this.listeners.add(listener);
    listener(this.state, {});
  }
}
