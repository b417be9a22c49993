const SILENCE = 30_000;

/**
 * Asks the Python behind the widget. Every request has an id; Python answers it with any number of
 * "progress" messages and one "result" or "error".
 */
export class KernelEngine {
  /** @param {object} model the widget's model: send(content), on("msg:custom", listener) */
  constructor(model) {
    this.model = model;
    this.waiting = new Map();
    this.lastId = 0;
    this.prefix = Math.random().toString(36).slice(2); // two views of one widget share its messages
    this.listener = (message) => this._receive(message);
    model.on("msg:custom", this.listener);
  }

  /** Calls back when, and if ever, Python answers. */
  hello(whenReady) {
    this.request("hello", {}, { patience: Infinity }).then(whenReady, () => {});
  }

  /**
   * @param {string} type
   * @param {object} content
   * @param {{signal?: AbortSignal, onProgress?: (fraction: number) => void, patience?: number}} options
   * @returns {Promise<object>}
   */
  request(type, content, { signal, onProgress, patience = SILENCE } = {}) {
    const id = `${this.prefix}-${++this.lastId}`;
    return new Promise((resolve, reject) => {
      const entry = { resolve, reject, onProgress, patience };
      this.waiting.set(id, entry);
      this._wait(id, entry);
      signal?.addEventListener("abort", () => {
        if (!this.waiting.has(id)) return;
        this._finish(id).reject(signal.reason);
        this.model.send({ type: "cancel", id });
      });
      try {
        this.model.send({ type, id, ...content });
      } catch (error) {
        this._finish(id).reject(new Error(`Python cannot be reached: ${error.message}`));
      }
    });
  }

  close() {
    this.model.off("msg:custom", this.listener);
    for (const { timer } of this.waiting.values()) clearTimeout(timer);
    this.waiting.clear();
  }

  _receive(message) {
    const entry = this.waiting.get(message?.id);
    if (!entry) return;
    if (message.type === "progress") {
      this._wait(message.id, entry);
      entry.onProgress?.(message.fraction);
    } else if (message.type === "error") {
      this._finish(message.id).reject(new Error(message.text));
    } else {
      this._finish(message.id).resolve(message);
    }
  }

  _finish(id) {
    const entry = this.waiting.get(id);
    clearTimeout(entry.timer);
    this.waiting.delete(id);
    return entry;
  }

  _wait(id, entry) {
    clearTimeout(entry.timer);
    if (entry.patience === Infinity) return;
    entry.timer = setTimeout(() => {
      const text = `Python has not answered for ${entry.patience / 1000} seconds: the kernel is busy with another cell, or it has stopped. Restart it and run the cell again.`;
      this._finish(id).reject(new Error(text));
    }, entry.patience);
  }
}
