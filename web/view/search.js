import { html, number, uniqueId } from "./dom.js";
import { concise } from "./tokens.js";

/** Neurons by a token: of the model where Python answers, of the page where it does not. */
export const searchView = (store, actions) =>
  searchForm(actions, {
    placeholder: "a word or a part of one, such as speak",
    label: "Neurons found",
    none: "No channel of this page has such a token.",
    describe,
  });

/** A form that lists what `search` finds, a button each that chooses it; words are the page's. */
export function searchForm({ choose, search }, { placeholder, label, none, describe }) {
  const id = uniqueId("search");
  const input = html("input", { id, type: "search", autocomplete: "off", placeholder });
  const results = html("ul", { class: "rotate-results", "aria-label": label });
  const onsubmit = async (event) => {
    event.preventDefault();
    if (!input.value.trim()) return;
    const found = await search(input.value);
    if (!found) return;
    results.replaceChildren(
      ...found.map((hit) => html("li", {}, html("button", { type: "button", onclick: () => choose(hit) }, describe(hit)))),
      ...(found.length ? [] : [html("li", { class: "rotate-muted" }, none)]),
    );
  };
  return html(
    "form",
    { class: "rotate-search", role: "search", onsubmit },
    html("label", { for: id }, "Find a token"),
    input,
    html("button", { type: "submit" }, "Search"),
    results,
  );
}

function describe({ layer, kind, index, channel, token, z }) {
  const where = channel === null || channel === undefined ? "" : `, channel ${channel + 1}`;
  return `layer ${layer}, ${kind}, ${index}${where}: ${concise(token)} ${number(z, 1)}`;
}

const N_HITS = 20;

/** Search among the neurons of the page: whole tokens first, then parts, however spaces and capitals are. */
export function searchEmbedded(neurons, text) {
  const wanted = text.trim().toLowerCase();
  const hits = [];
  for (const { layer, kind, index, channels } of neurons) {
    channels.forEach(({ top }, channel) => {
      const read = top.map(([token]) => token.trim().toLowerCase());
      const whole = read.indexOf(wanted);
      const i = whole >= 0 ? whole : read.findIndex((token) => token.includes(wanted));
      if (i >= 0) hits.push({ layer, kind, index, channel, token: top[i][0], z: top[i][1], whole: whole >= 0 });
    });
  }
  return hits.sort((a, b) => b.whole - a.whole || Math.abs(b.z) - Math.abs(a.z)).slice(0, N_HITS);
}
