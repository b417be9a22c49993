import { html, number, uniqueId } from "./dom.js";
import { concise } from "./tokens.js";

/** Neurons by a token: of the model where Python answers, of the page where it does not. */
export function searchView(store, { choose, search }) {
  const id = uniqueId("search");
  const input = html("input", { id, type: "search", autocomplete: "off", placeholder: "a token, such as eight" });
  const results = html("ul", { class: "rotate-results", "aria-label": "Neurons found" });
  const onsubmit = async (event) => {
    event.preventDefault();
    const token = input.value;
    if (!token.trim()) return;
    const found = await search(token);
    if (!found) return;
    results.replaceChildren(
      ...found.map((hit) => html("li", {}, html("button", { type: "button", onclick: () => choose(hit) }, describe(hit)))),
      ...(found.length ? [] : [html("li", { class: "rotate-muted" }, "No neuron found here with this token.")]),
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

/** Search among the neurons of the page: a token whole, however its spaces and capitals are. */
export function searchEmbedded(neurons, text) {
  const wanted = text.trim().toLowerCase();
  const hits = [];
  for (const { layer, kind, index, channels } of neurons) {
    channels.forEach(({ top }, channel) => {
      const found = top.find(([token]) => token.trim().toLowerCase() === wanted);
      if (found) hits.push({ layer, kind, index, channel, token: found[0], z: found[1] });
    });
  }
  return hits.sort((a, b) => Math.abs(b.z) - Math.abs(a.z)).slice(0, 20);
}
