import { small } from "../view/cards.js";
import { html, number, uniqueId } from "../view/dom.js";
import { concise } from "../view/tokens.js";

/** Channels of the atlas with a token in their tail; a click shows the neuron. */
export function searchView(store, { choose, search }) {
  const id = uniqueId("search");
  const input = html("input", { id, type: "search", autocomplete: "off", placeholder: "a whole token, such as until" });
  const results = html("ul", { class: "rotate-results", "aria-label": "Channels found" });
  const onsubmit = async (event) => {
    event.preventDefault();
    if (!input.value.trim()) return;
    const hits = await search(input.value);
    if (!hits) return;
    const none = html("li", { class: "rotate-muted" }, "No channel of this atlas has it in its tail.");
    results.replaceChildren(...hits.map((hit) => html("li", {}, button(hit, choose))), ...(hits.length ? [] : [none]));
  };
  store.watch(({ atlas }, before) => atlas !== before.atlas && results.replaceChildren());
  return html(
    "form",
    { class: "rotate-search", role: "search", onsubmit },
    html("label", { for: id }, "Find a token"),
    input,
    html("button", { type: "submit" }, "Search"),
    results,
  );
}

function button(hit, choose) {
  const { layer, kind, index, channel, token, z, q } = hit;
  const measured = q === null ? "" : `, q ${small(q).replace(/^(?=\d)/, "= ")}`;
  const where = `layer ${layer}, ${kind}, ${index}, channel ${channel + 1}`;
  return html("button", { type: "button", onclick: () => choose(hit) }, `${where}: ${concise(token)} ${number(z, 1)}${measured}`);
}
