/**
 * Calls to another thread over a port: {id, method, args} goes out; any number of {id, event, args}
 * and then {id, result} or {id, error} come back. {id, stop} asks for an earlier end.
 */
export class Calls {
  /** @param {Worker | MessagePort} port */
  constructor(port) {
    this.port = port;
    this.waiting = new Map();
    this.lastId = 0;
    port.onmessage = ({ data }) => this._receive(data);
    port.onerror = (event) => {
      event.preventDefault();
      this._fail(event.message || "a worker did not start");
    };
  }

  /**
   * @param {string} method
   * @param {unknown[]} args
   * @param {{moved?: Transferable[], signal?: AbortSignal, on?: Record<string, Function>}} options
   *   on hears the events of this call; moved are no longer this thread's
   */
  call(method, args, { moved = [], signal, on = {} } = {}) {
    return new Promise((resolve, reject) => {
      const id = ++this.lastId;
      this.waiting.set(id, { resolve, reject, on });
      signal?.addEventListener("abort", () => {
        if (!this.waiting.delete(id)) return;
        this.port.postMessage({ id, stop: true });
        reject(signal.reason);
      });
      this.port.postMessage({ id, method, args }, moved);
    });
  }

  close() {
    (this.port.terminate ?? this.port.close).call(this.port);
    this._fail("the worker was closed");
  }

  _receive({ id, event, args, result, error }) {
    const call = this.waiting.get(id);
    if (!call) return; // stopped
    if (event !== undefined) return call.on[event]?.(...args);
    this.waiting.delete(id);
    if (error === undefined) call.resolve(result);
    else call.reject(new Error(error));
  }

  _fail(message) {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }
}

/**
 * Answers them.
 *
 * @param {Worker | MessagePort} port
 * @param {(method: string, args: unknown[], context: {signal: AbortSignal,
 *   emit: (event: string, ...args: unknown[]) => void}) => unknown} respond
 */
export function answer(port, respond) {
  const running = new Map();
  port.onmessage = async ({ data: { id, method, args, stop } }) => {
    if (stop) return running.get(id)?.abort();
    const stopper = new AbortController();
    running.set(id, stopper);
    try {
      const emit = (event, ...more) => port.postMessage({ id, event, args: more });
      const result = await respond(method, args, { signal: stopper.signal, emit });
      port.postMessage({ id, result }, ArrayBuffer.isView(result) ? [result.buffer] : []);
    } catch (error) {
      port.postMessage({ id, error: String(error?.message ?? error) });
    } finally {
      running.delete(id);
    }
  };
}
