import { html } from "./dom.js";

/**
 * One piece of work at a time, and the line that says what is going on.
 *
 * @param {import("./store.js").Store} store
 */
export function workOf(store) {
  const status = html("p", { class: "rotate-status", role: "status" });
  let stop = new AbortController();

  function say(text, isError = false) {
    status.textContent = text;
    status.classList.toggle("rotate-error", isError);
  }

  /**
   * Runs one piece of work; a newer one, or Cancel, stops it. Returns undefined where it failed.
   *
   * @param {string} label
   * @param {(options: {signal: AbortSignal, onProgress: (fraction: number) => void}) => Promise} task
   * @param {{rotates?: boolean}} options whether channels come out of it
   */
  async function work(label, task, { rotates = false } = {}) {
    stop.abort();
    const mine = (stop = new AbortController());
    store.set({ running: { label, rotates, fraction: null } });
    say(label);
    const onProgress = (fraction) => {
      if (!mine.signal.aborted) store.set({ running: { label, rotates, fraction } });
    };
    try {
      const result = await task({ signal: mine.signal, onProgress });
      mine.signal.throwIfAborted();
      return result;
    } catch (error) {
      if (stop === mine) say(error.name === "AbortError" ? "Cancelled." : error.message, error.name !== "AbortError");
      return undefined;
    } finally {
      if (stop === mine) store.set({ running: null, climb: null });
    }
  }

  function cancel() {
    stop.abort();
    store.set({ running: null, climb: null });
    say("Cancelled.");
  }

  return { status, say, work, cancel, close: () => stop.abort() };
}
