import { decodeNeuron, encodeFloats, matched } from "./data.js";
import { inWords, PYTHON_ONLY } from "./controls.js";
import { changed, writeLink } from "./link.js";
import { same } from "./picker.js";
import { searchEmbedded } from "./search.js";
import { withKnown } from "./verdict.js";

/** Milliseconds that a slider rests before it is followed: a browser is stopped sooner than Python. */
const PAUSE = { live: 250, static: 60 };

/**
 * What a reader can do.
 *
 * @param {import("./store.js").Store} store
 * @param {{work: Function, say: Function, cancel: Function, kernel: object | null,
 *   announce: (detail: object) => void}} means
 */
export function actionsOf(store, { work, say, cancel, kernel, announce }) {
  const { info, neurons, defaults } = store.state;
  const decoded = new Map();
  let pause;

  const name = ({ layer, kind, index }) => `Layer ${layer}, ${kind}, neuron ${index}`;
  const moved = () => changed(store.state.settings, defaults);

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

  async function choose(place, { settings = store.state.settings, channel = 0, refused = [] } = {}) {
    const { layer, kind, index } = place;
    const current = { layer, kind, index };
    clearTimeout(pause);
    let stored = embedded(current);
    if (!stored && store.state.mode !== "live") return missing(current);
    store.set({ current, settings });
    if (!stored) {
      const answer = await work("Python rotates the neuron …", (options) => kernel.request("stored", current, options));
      if (!answer) return;
      stored = decodeNeuron(answer.neuron);
    }
    if (!same(current, store.state.current)) return; // the reader has gone on
    cancel();
    store.set({ stored, shown: stored, matches: null, selected: channel });
    store.set({ canRun: canRun() });
    const unusable = refused.length ? `The link asks for what there is not here: ${refused.join(", ")}. ` : "";
    say(unusable + (stored.source ?? ""), Boolean(unusable));
    remember();
    if (moved().length) await follow(unusable);
  }

  function missing(place) {
    store.set({ current: store.state.shown ?? null });
    say(`${name(place)} is not among the neurons of this page.`, true);
  }

  /** Rotates as the settings say, or says what has to be there first. */
  async function follow(unusable) {
    const { engine, stored, mode } = store.state;
    if (store.state.canRun) return run();
    if (mode === "asking") return undefined; // Python may answer
    const fits = engine && engine.file.vocabulary === stored.vocabulary;
    if (fits && (await engine.isKept())) return load();
    const how = fits ? "load the vocabulary to see its channels" : "only a notebook can rotate it so";
    say(`${unusable}The link is of ${inWords(moved())}: ${how}. Below are the stored channels.`, true);
    return undefined;
  }

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
    pause = setTimeout(run, PAUSE[store.state.mode]);
  }

  async function run() {
    const { stored, settings, mode, engine } = store.state;
    if (!stored) return;
    store.set({ expected: settings.n_channels });
    const began = performance.now();
    const show = (found) => {
      const matches = matched(found.channels, stored.channels);
      store.set({ shown: withKnown(found, stored, matches), matches });
    };
    const rotate = async (options) => {
      if (mode === "live") {
        const answer = await kernel.request("decompose", { ...store.state.current, settings }, options);
        return decodeNeuron(answer.neuron);
      }
      const unlessStopped = (act) => (found) => options.signal.aborted || act(found);
      return engine.run(stored, settings, {
        ...options,
        onChannel: unlessStopped(show),
        onClimb: unlessStopped((climb) => store.set({ climb })),
      });
    };
    const found = await work("Rotating …", rotate, { rotates: true });
    if (!found) return;
    show(found);
    const { shown, matches } = store.state;
    announce({ neuron: shown, stored, settings });
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const who = mode === "live" ? "Python" : `this browser (${engine.name})`;
    const again = matches.filter(({ pair }) => pair !== null).length;
    say(`${matches.length} channels in ${seconds} s by ${who}: ${again} as stored, ${matches.length - again} new.`);
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
    const { mode, current, selected, settings } = store.state;
    if (!current || mode === "live" || document.documentElement.dataset.content_root === undefined) return;
    history.replaceState(history.state, "", writeLink(current, selected, settings, defaults));
  }

  /** Settings of a link that a page without Python can have, and what it cannot. */
  function withoutPython({ settings, refused }) {
    const beyond = changed(settings, defaults).filter(([name]) => PYTHON_ONLY.includes(name));
    const kept = { ...settings, ...Object.fromEntries(beyond.map(([name]) => [name, defaults[name]])) };
    return { settings: kept, refused: [...refused, ...beyond.map(([name, value]) => `${name}=${value} (needs Python)`)] };
  }

  return {
    choose, random, change, load, reset, search, runPrompt, steer, say, remember, embedded, withoutPython, missing,
    cancel: () => {
      clearTimeout(pause);
      cancel();
    },
    close: () => clearTimeout(pause),
  };
}
