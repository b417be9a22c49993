import { BrowserEngine } from "../engine/browser.js";
import { KernelEngine } from "../engine/kernel.js";
import { actionsOf } from "./actions.js";
import { cardsView } from "./cards.js";
import { isPossible, controlsView } from "./controls.js";
import { html } from "./dom.js";
import { histogramView } from "./histogram.js";
import { legendView } from "./legend.js";
import { readLink } from "./link.js";
import { mapsView } from "./maps.js";
import { passagesView } from "./passages.js";
import { pickerView } from "./picker.js";
import { promptView } from "./prompt.js";
import { searchView } from "./search.js";
import { shareView } from "./share.js";
import { steerView } from "./steer.js";
import { Store } from "./store.js";
import { followTheme } from "./theme.js";
import { workOf } from "./work.js";

const WAIT_FOR_PYTHON = 800;

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
    climb: null,
    expected: defaults.n_channels,
    running: null,
    text: "When the cat saw the mouse, it",
  });
  const kernel = model ? new KernelEngine(model) : null;
  const { status, close: stopWork, ...working } = workOf(store);
  const announce = (detail) => root.dispatchEvent(new CustomEvent("rotate:channels", { bubbles: true, detail }));
  const actions = actionsOf(store, { ...working, kernel, announce });

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
    searchView(store, { ...actions, choose: (hit) => actions.choose(hit, { channel: hit.channel ?? 0 }) }),
    status,
    histogramView(store),
    controlsView(store, actions),
    legendView(store),
    cardsView(store),
    passagesView(store),
    mapsView(store),
    promptView(store, actions),
    steerView(store, actions),
    shareView(store, actions),
  );
  root.append(section);
  const leaveTheme = followTheme(section);
  store.watch(({ selected }, before) => selected !== before.selected && store.state.shown && actions.remember());

  // --- where it begins ------------------------------------------------------------------------

  const linked = () => {
    const link = readLink(location.hash, defaults, (name, value) => value === defaults[name] || isPossible(name, value));
    return link && { ...link, settings: { ...defaults, ...link.settings } };
  };
  const link = linked();
  const first = link ?? { ...(neurons[0] ?? { layer: 0, kind: info.kinds[0], index: 0 }), channel: 0, settings: defaults, refused: [] };
  const follow = (target) => {
    section.scrollIntoView();
    const { mode } = store.state;
    return actions.choose(target, { ...target, ...(mode === "static" ? actions.withoutPython(target) : {}) });
  };
  const goStatic = () => {
    if (store.state.mode !== "asking") return;
    store.set({ mode: "static" });
    if (!neurons.length) return;
    if (!store.state.shown) actions.choose(neurons[0]);
    if (link) follow(link);
  };
  const goLive = () => {
    store.set({ mode: "live", canRun: true });
    if (!store.state.shown || link) actions.choose(first, first);
  };
  if (neurons.length && actions.embedded(first)) actions.choose(first, first);
  if (link) requestAnimationFrame(() => section.scrollIntoView());
  const timer = setTimeout(goStatic, kernel ? WAIT_FOR_PYTHON : 0);
  kernel?.hello(goLive);
  const onHashChange = () => {
    const target = linked();
    if (target) follow(target);
  };
  addEventListener("hashchange", onHashChange);

  return () => {
    clearTimeout(timer);
    actions.close();
    stopWork();
    removeEventListener("hashchange", onHashChange);
    kernel?.close();
    store.state.engine?.close();
    leaveTheme();
    section.remove();
  };
}
