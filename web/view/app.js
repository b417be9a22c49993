import { BrowserEngine } from "../engine/browser.js";
import { KernelEngine } from "../engine/kernel.js";
import { cardsView } from "./cards.js";
import { controlsView } from "./controls.js";
import { closest, decodeNeuron, encodeFloats } from "./data.js";
import { html } from "./dom.js";
import { histogramView } from "./histogram.js";
import { readLink, writeLink } from "./link.js";
import { mapsView } from "./maps.js";
import { pickerView, same } from "./picker.js";
import { promptView } from "./prompt.js";
import { searchEmbedded, searchView } from "./search.js";
import { shareView } from "./share.js";
import { steerView } from "./steer.js";
import { Store } from "./store.js";
import { followTheme } from "./theme.js";

const WAIT_FOR_PYTHON = 800;
const PAUSE_BEFORE_RUN = 250;

/**
 * Puts an explorer into an element.
 *
 * @param {HTMLElement} root
 * @param {{info: object, neurons: object[], settings: object, python: object, file: object | null,
 *   refusal: string, compact?: boolean}} content what the Python class embeds; compact leaves the
 *   maps and the search out
 * @param {object | null} model the widget's model, if there is one to ask
 * @returns {() => void} takes it away again
 */
export function mountExplorer(root, content, model) {
  const { info, neurons, settings: defaults, python, file, refusal, compact } = content;
  const decoded = new Map();
  const store = new Store({
    mode: "asking",
    info,
    neurons,
    defaults,
    settings: defaults,
    python,
    refusal,
    engine: file ? new BrowserEngine(file) : null,
    canRun: false,
    current: null,
    stored: null,
    shown: null,
    matches: null,
    selected: 0,
    expected: defaults.n_channels,
    running: null,
    text: "When the cat saw the mouse, it",
  });
  const kernel = model ? new KernelEngine(model) : null;
  let stop = new AbortController();
  let pause;

  // --- what it says ---------------------------------------------------------------------------

  const status = html("p", { class: "rotate-status", role: "status" });
  function say(text, isError = false) {
    status.textContent = text;
    status.classList.toggle("rotate-error", isError);
  }

  /** Runs one piece of work; a newer one, or Cancel, stops it. Returns undefined where it failed. */
  async function work(label, task) {
    stop.abort();
    const mine = (stop = new AbortController());
    store.set({ running: { label, fraction: null } });
    say(label);
    const onProgress = (fraction) => {
      if (!mine.signal.aborted) store.set({ running: { label, fraction } });
    };
    try {
      const result = await task({ signal: mine.signal, onProgress });
      mine.signal.throwIfAborted();
      return result;
    } catch (error) {
      if (stop === mine) say(error.name === "AbortError" ? "Cancelled." : error.message, error.name !== "AbortError");
      return undefined;
    } finally {
      if (stop === mine) store.set({ running: null });
    }
  }

  // --- what it does ---------------------------------------------------------------------------

  async function choose(place, { settings = store.state.settings, channel = 0 } = {}) {
    const { layer, kind, index } = place;
    const current = { layer, kind, index };
    clearTimeout(pause);
    store.set({ current, settings });
    let stored = embedded(current);
    if (!stored && store.state.mode === "live") {
      const answer = await work("Python rotates the neuron …", (options) => kernel.request("stored", current, options));
      if (!answer) return;
      stored = decodeNeuron(answer.neuron);
    }
    if (!stored) {
      say(`${name(current)} is not among the neurons of this page.`, true);
      store.set({ current: store.state.shown ?? neurons[0], settings });
      return;
    }
    if (!same(current, store.state.current)) return; // the reader has gone on
    const selected = stored.channels.length > channel ? channel : null;
    store.set({ stored, shown: stored, matches: null, selected });
    store.set({ canRun: canRun() });
    say(stored.source ?? "");
    remember();
    if (moved() && store.state.canRun) await run();
  }

  const name = ({ layer, kind, index }) => `Layer ${layer}, ${kind}, neuron ${index}`;

  function embedded(place) {
    const i = neurons.findIndex((neuron) => same(neuron, place));
    if (i >= 0 && !decoded.has(i)) decoded.set(i, decodeNeuron(neurons[i]));
    return decoded.get(i);
  }

  /** Without Python: once U is here, and for neurons that it is the vocabulary of. */
  function canRun() {
    const { mode, engine, stored } = store.state;
    return mode === "live" || Boolean(engine?.ready && stored?.vocabulary === engine.file.vocabulary);
  }

  /** Matched vectors say nothing of what was made otherwise, or from a browser's rounded U. */
  const measured = ({ channels, nNull }) =>
    nNull && !Number.isFinite(channels[0]?.p) ? " Not measured against matched vectors." : "";

  const moved = () => Object.entries(store.state.settings).some(([name, value]) => value !== defaults[name]);

  function random() {
    if (store.state.mode !== "live") {
      const others = neurons.filter((neuron) => !same(neuron, store.state.current));
      return choose(others[Math.floor(Math.random() * others.length)] ?? neurons[0]);
    }
    return choose({ ...store.state.current, index: Math.floor(Math.random() * info.d_mlp) });
  }

  function change(name, value) {
    store.set({ settings: { ...store.state.settings, [name]: value } });
    clearTimeout(pause);
    pause = setTimeout(run, PAUSE_BEFORE_RUN);
  }

  async function run() {
    const { stored, settings, mode, engine } = store.state;
    if (!stored) return;
    store.set({ expected: settings.n_channels });
    const began = performance.now();
    const show = (neuron) => store.set({ shown: neuron, matches: closest(neuron.channels, stored.channels) });
    const neuron = await work("Rotating …", async (options) => {
      if (mode === "live") {
        const answer = await kernel.request("decompose", { ...store.state.current, settings }, options);
        return decodeNeuron(answer.neuron);
      }
      return engine.run(stored, settings, { ...options, onChannel: (part) => options.signal.aborted || show(part) });
    });
    if (!neuron) return;
    show(neuron);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const as = store.state.matches.filter(({ cosine }) => cosine >= 0.9).length;
    const who = mode === "live" ? "Python" : `this browser (${engine.name})`;
    const detail = { neuron, stored, settings };
    root.dispatchEvent(new CustomEvent("rotate:channels", { bubbles: true, detail }));
    say(`${neuron.channels.length} channels in ${seconds} s by ${who}: ${as} as stored, ${neuron.channels.length - as} new.${measured(neuron)}`);
    remember();
  }

  async function load() {
    const { engine } = store.state;
    const done = await work("Loading the vocabulary …", async (options) => {
      await engine.load(options);
      return true;
    });
    if (!done) return;
    store.set({ canRun: canRun() });
    await run();
  }

  function cancel() {
    clearTimeout(pause);
    stop.abort();
    store.set({ running: null });
    say("Cancelled.");
  }

  function reset() {
    const { stored } = store.state;
    store.set({ settings: defaults, shown: stored, matches: null });
    say(stored.source ?? "");
    remember();
  }

  async function search(token) {
    if (store.state.mode !== "live") return searchEmbedded(neurons, token);
    const { current } = store.state;
    const answer = await work("Searching …", (options) => kernel.request("search", { token, ...current }, options));
    if (answer) say(answer.text ?? "");
    return answer?.hits;
  }

  /** Python gets the channels that are shown: it switches off what the reader sees. */
  async function runPrompt(text, channel) {
    if (!store.state.shown) return undefined;
    const { layer, kind, index, channels } = store.state.shown;
    const vectors = channel === null ? [] : channels.map(({ vector }) => encodeFloats(vector));
    const content = { text, channel, layer, kind, index, vectors };
    const answer = await work("Python runs the model …", (options) => kernel.request("prompt", content, { ...options, patience: 120_000 }));
    if (answer) say("");
    return answer;
  }

  /** What steering gives: an answer, or why there is none; stopped where something newer was asked. */
  async function steer(vector, strength) {
    const { text, shown: { layer, kind, index } } = store.state;
    const content = { text, layer, kind, index, vector: encodeFloats(vector), strength };
    let error;
    const answer = await work("Python steers the model …", async (options) => {
      try {
        return await kernel.request("steer", content, { ...options, patience: 120_000 });
      } catch (reason) {
        if (reason.name !== "AbortError") error = reason.message;
        throw reason;
      }
    });
    if (answer) say("");
    return answer ?? (error ? { error } : { stopped: true });
  }

  /** The address follows what is seen, but only on a book's page: applications have uses for it. */
  function remember() {
    const { mode, current, settings } = store.state;
    if (mode === "live" || document.documentElement.dataset.content_root === undefined) return;
    history.replaceState(history.state, "", writeLink(current, settings, defaults));
  }

  // --- the page -------------------------------------------------------------------------------

  const actions = { choose, random, change, load, cancel, reset, search, runPrompt, steer, say };
  const section = html(
    "section",
    {
      class: compact ? "rotate-explorer rotate-compact" : "rotate-explorer",
      "aria-label": `Neuron explorer, ${info.model}`,
      // JupyterLab would take the sliders' arrow keys: as shortcuts, and back to its own cell.
      "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => event.ctrlKey || event.metaKey || event.stopPropagation(),
    },
    pickerView(store, actions),
    searchView(store, { ...actions, choose: (hit) => choose(hit, { channel: hit.channel ?? 0 }) }),
    status,
    histogramView(store),
    controlsView(store, actions),
    cardsView(store),
    mapsView(store),
    promptView(store, actions),
    steerView(store, actions),
    shareView(store, actions),
  );
  root.append(section);
  const leaveTheme = followTheme(section);

  const link = readLink(location.hash, defaults);
  const settings = { ...defaults, ...link?.settings };
  const fallback = neurons[0] ?? { layer: 0, kind: info.kinds[0], index: 0 };
  const first = link ?? fallback;
  const goStatic = () => {
    if (store.state.mode !== "asking") return;
    store.set({ mode: "static" });
    if (store.state.shown || !neurons.length) return;
    choose(fallback);
    say(`${name(first)} is not among the neurons of this page.`, true);
  };
  const goLive = () => {
    store.set({ mode: "live", canRun: true });
    if (!store.state.shown || moved()) choose(store.state.shown ? store.state.current : first, { settings });
  };
  if (neurons.length && embedded(first)) choose(first, { settings });
  else store.set({ settings });
  const timer = setTimeout(goStatic, kernel ? WAIT_FOR_PYTHON : 0);
  kernel?.hello(goLive);
  const onHashChange = () => {
    const target = readLink(location.hash, defaults);
    if (target) choose(target, { settings: { ...defaults, ...target.settings } });
  };
  addEventListener("hashchange", onHashChange);

  return () => {
    clearTimeout(timer);
    clearTimeout(pause);
    stop.abort();
    removeEventListener("hashchange", onHashChange);
    kernel?.close();
    store.state.engine?.close();
    leaveTheme();
    section.remove();
  };
}
