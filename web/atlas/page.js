/** A page that looks into an atlas: the table of its neurons, a search by token, a neuron's channels. */
import explorerStyle from "../../rotate_core/explorer/static/explorer.css";
import { cardsView } from "../view/cards.js";
import { html, uniqueId } from "../view/dom.js";
import { readLink } from "../view/link.js";
import { Store } from "../view/store.js";
import { followTheme } from "../view/theme.js";
import { openAtlas } from "./atlas.js";
import { headView } from "./head.js";
import style from "./page.css";
import { searchView } from "./search.js";
import { addressOf, Count, served } from "./source.js";
import { ROWS, tableView } from "./table.js";
import { tailView } from "./tail.js";

/** Channels with a q-value below it count as the neuron's: SIGNIFICANT of rotate_core/null/calibration.py. */
const SIGNIFICANT = 0.1;

function mount(root) {
  const store = new Store({
    info: { significant: SIGNIFICANT },
    atlas: null,
    count: new Count(),
    group: null,
    measured: "",
    order: [],
    from: 0,
    rows: [],
    current: null,
    shown: null,
    selected: null,
    matches: null,
    expected: 0,
    running: null,
  });
  const status = html("p", { class: "rotate-status", role: "status" });
  let turn = 0;

  /** Runs one piece of work, and shows what it fails with; what is asked later comes instead of it. */
  async function work(label, task) {
    const mine = ++turn;
    say(label);
    try {
      const result = await task();
      if (mine !== turn) return undefined;
      say("");
      return result;
    } catch (error) {
      if (mine === turn) say(error.message, true);
      return undefined;
    }
  }

  function say(text, isError = false) {
    status.textContent = text;
    status.classList.toggle("rotate-error", isError);
  }

  async function open(makeSource) {
    const count = new Count((changed) => store.set({ count: changed, read: changed.whole + changed.parts }));
    store.set({ atlas: null, count, group: null, rows: [], current: null, shown: null, selected: null });
    const atlas = await work("Opening the atlas …", async () => openAtlas(makeSource(count)));
    if (!atlas) return;
    store.set({ atlas });
    const link = readLink(location.hash, {});
    const group = (link && atlas.group(link.layer, link.kind)) ?? atlas.groups.at(-1);
    await look(group);
    if (link) await choose(link);
  }

  /** Shows the first neurons of a layer and kind, by their numbers or by evidence. */
  async function look(group, byEvidence = false) {
    const { atlas } = store.state;
    const found = await work("Reading p- and q-values …", async () => {
      const ranked = byEvidence ? await atlas.byEvidence(group) : null;
      return { measured: await atlas.measured(group), order: ranked ?? [...group.neurons.keys()].sort((a, b) => a - b) };
    });
    if (!found) return;
    store.set({ group, ...found });
    await turnTo(0);
  }

  async function turnTo(from) {
    const { atlas, group, order } = store.state;
    const rows = await work("Reading neurons …", () => atlas.neurons(group, order.slice(from, from + ROWS)));
    if (rows) store.set({ from, rows });
  }

  async function choose({ layer, kind, index, channel = null }) {
    const { atlas } = store.state;
    const group = atlas.group(layer, kind);
    if (!group?.neurons.has(index)) {
      say(`Layer ${layer}, ${kind}, neuron ${index} is not in this atlas.`, true);
      return;
    }
    const found = await work("Reading the neuron …", () => atlas.neurons(group, [index]));
    if (!found) return;
    if (!found[0]) {
      say(`Layer ${layer}, ${kind}, neuron ${index} is planned, and not there yet.`, true);
      return;
    }
    store.set({ current: { layer, kind, index }, shown: found[0], selected: channel });
    history.replaceState(history.state, "", `#${new URLSearchParams({ layer, kind, neuron: index })}`);
    if (matchMedia("(max-width: 999px)").matches) detail.scrollIntoView({ block: "start" });
  }

  async function search(word) {
    if (!store.state.atlas) return undefined;
    const found = await work("Searching …", () => store.state.atlas.search(word));
    if (found?.missing.length) {
      const left = found.missing.map(({ layer, kind }) => `layer ${layer}, ${kind}`).join("; ");
      say(`Not searched, as they are not complete: ${left}.`);
    }
    return found?.hits;
  }

  const actions = { open, look, turnTo, choose, search };
  const id = uniqueId("neuron");
  const heading = html("h2", { id });
  store.watch(({ shown }) => {
    heading.textContent = shown ? `Layer ${shown.layer}, ${shown.kind}, neuron ${shown.index}` : "Choose a neuron";
  });
  const detail = html("section", { class: "rotate-detail", "aria-labelledby": id }, heading, cardsView(store), tailView(store, work));
  const body = html(
    "div",
    { class: "rotate-columns", hidden: true },
    html("div", { class: "rotate-list" }, searchView(store, actions), tableView(store, actions)),
    detail,
  );
  store.watch(({ atlas }) => (body.hidden = !atlas));
  const section = html("section", { class: "rotate-explorer rotate-atlas", "aria-label": "Atlas" }, headView(store, actions), status, body);
  root.append(section);
  followTheme(section);

  // A page that was opened from a disk may not read the files beside it: the reader has to choose them.
  const asked = new URLSearchParams(location.search).get("atlas") ?? root.dataset.atlas;
  const address = asked && addressOf(asked, location.href);
  if (address && !address.startsWith("file:")) open((count) => served(address, count));
  else say("Choose the folder of an atlas, or give its address.");
}

document.head.append(html("style", {}, explorerStyle, style));
mount(document.querySelector("#atlas"));
